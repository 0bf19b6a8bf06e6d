"""Judgements and reports: figures by hand, and that nothing of them is lost on the way to a file."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from recsvc.domain.arrays import Codes
from recsvc.domain.evaluation import EMPTY
from recsvc.training.evaluation import STECK_BETA, ItemVectors, Judgement, Lists, judge
from recsvc.training.plots import PlottingUnavailable, plot
from recsvc.training.protocols import SplitKind, Task, split_table
from recsvc.training.report import (
    Report,
    Served,
    as_json,
    as_markdown,
    comparison_rows,
    figure_rows,
    is_significant,
    losses,
    notes,
    versions,
)
from tests.unit.test_protocols import table_of

_USERS = 30


def _a_task() -> Task:
    """Everybody views a, b and (the even ones) c; then all want d, and the odd ones e, too."""
    log = []
    for user in range(_USERS):
        log += [(f"u{user}", "a", 0), (f"u{user}", "b", 1)]
        log += [(f"u{user}", "c", 2)] if user % 2 == 0 else []
        log += [(f"u{user}", "d", 9)] + ([(f"u{user}", "e", 9)] if user % 2 else [])
    log += [("x", "d", 2), ("x", "e", 2), ("y", "d", 2)]
    return split_table(table_of(log), SplitKind.TEMPORAL, test_share=0.4)


def _lists(task: Task, *names: str, for_odd: Sequence[str] | None = None) -> Codes:
    codes: Mapping[str, int] = {item_id: code for code, item_id in enumerate(task.table.item_ids)}
    rows = []
    for subject in task.questions.subjects:
        is_odd = int(task.table.subjects[subject].id[1:]) % 2
        rows.append([codes.get(name, EMPTY) for name in (for_odd if is_odd and for_odd is not None else names)])
    return np.array(rows)


def _a_report(**changes: Any) -> Report:
    task = _a_task()
    models = [
        Lists("served", _lists(task, "d", "a", for_odd=["d", "e"])),
        Lists("exact", _lists(task, "d", "a", for_odd=["d", "e"])),
        Lists("baseline", _lists(task, "c", "d")),
    ]
    fields = {
        "dataset": "test",
        "split": "temporal",
        "command": "recsvc evaluate test",
        "seed": 3,
        "test_share": 0.4,
        "subjects": _USERS,
        "questions": _USERS,
        "judged": judge(task, models, ks=(1, 2), pairs=[("served", "baseline")]),
        "served": [Served("served", 2.0, _USERS, agreement=1.0)],
        "exact": {"served": "exact"},
        "seconds": {"train": 1.25},
        "facts": {"dimension": 64},
        "peak_memory_bytes": 2**30,
        "versions": versions(),
    }
    return Report(**(fields | changes))  # type: ignore[arg-type]


def _by_name(report: Report, name: str) -> Judgement:
    return next(model for model in report.judged.judgements if model.name == name)


def test_figures_are_those_of_the_definitions() -> None:
    served = _by_name(_a_report(), "served")
    means = {name: round(interval.mean, 6) for name, interval in served.figures.items()}
    assert means["recall@1"] == 0.75
    assert means["precision@1"] == 1.0
    assert means["ndcg@1"] == 1.0
    assert means["recall@2"] == 1.0
    assert means["precision@2"] == 0.75
    assert means["map@2"] == 1.0
    assert means["mrr@2"] == 1.0
    assert means["hit rate@2"] == 1.0
    assert served.totals["coverage@2"] == pytest.approx(3 / 5)
    assert served.totals["list length@2"] == 2.0


def test_recall_by_popularity_is_over_who_wants_something_of_that_stratum() -> None:
    # a: 30, b: 30 and c: 15 likes are all three strata; d and e come after them.
    task = _a_task()
    found = judge(task, [Lists("d only", _lists(task, "d", "a"))], ks=(2,)).judgements[0].figures
    assert found["recall@2 head"].mean == 0.0
    assert found["recall@2 tail"].mean == pytest.approx(0.75)


def test_stratified_recall_weighs_a_hit_by_how_rare_its_item_is() -> None:
    # In the train part d has 2 likes and e has 1; half of the users want both.
    task = _a_task()
    found = judge(task, [Lists("d only", _lists(task, "d", "a"))], ks=(2,)).judgements[0].figures
    weight = 2.0**-STECK_BETA
    assert found["stratified recall@2"].mean == pytest.approx(_USERS * weight / (_USERS * weight + _USERS / 2))


def test_diversity_by_categories_is_there_when_there_are_categories() -> None:
    task = _a_task()
    lists = [Lists("model", _lists(task, "d", "e"))]
    assert "category diversity@2" not in judge(task, lists, ks=(2,)).judgements[0].figures
    categories = sparse.csr_matrix(np.eye(len(task.table.item_ids), dtype=np.float32))
    vectors = ItemVectors(task.train.T.tocsr(), categories)
    figures = judge(task, lists, ks=(2,), vectors=vectors).judgements[0].figures
    assert figures["category diversity@2"].mean == pytest.approx(1.0)


def test_a_better_model_is_significantly_better() -> None:
    by_metric = {comparison.metric: comparison for comparison in _a_report().judged.comparisons}
    assert set(by_metric) == {"ndcg@1", "recall@1", "mrr@1", "ndcg@2", "recall@2", "mrr@2"}
    assert is_significant(by_metric["ndcg@2"])
    assert by_metric["recall@2"].difference.interval.mean == pytest.approx(0.25)


def test_exact_and_served_lists_that_are_the_same_lose_nothing() -> None:
    assert {(loss.metric, loss.relative) for loss in losses(_a_report())} >= {("ndcg@2", 0.0), ("recall@2", 0.0)}


def test_what_serving_loses_is_a_share_of_the_exact_figure() -> None:
    report = _a_report(exact={"baseline": "exact"})
    loss = next(loss for loss in losses(report) if loss.metric == "recall@2")
    assert loss.relative == pytest.approx(0.25)


def test_every_figure_is_in_the_table_the_document_and_the_json() -> None:
    report = _a_report()
    names = [*report.judged.judgements[0].figures, *report.judged.judgements[0].totals]
    document = json.loads(json.dumps(as_json(report)))
    text = as_markdown(report)
    assert [row[0] for row in figure_rows(report.judged)] == names
    assert set(document["models"]["served"]) == set(names)
    for name in names:
        assert f"| {name} |" in text
    assert document["models"]["served"]["recall@1"]["mean"] == pytest.approx(0.75)
    assert document["seconds"] == {"train": 1.25}
    assert document["command"] == report.command
    assert document["versions"]["numpy"] == np.__version__


def test_tables_of_markdown_are_whole() -> None:
    lines = as_markdown(_a_report()).splitlines()
    assert lines[0] == "## test, temporal split, 30 users"
    figures = lines[3 : lines.index("", 3)]
    assert {line.count("|") for line in figures} == {5}
    assert figures[2].startswith("| recall@1 | 0.7500 [")


def test_notes_say_how_figures_came_about() -> None:
    text = "\n".join(notes(_a_report(served=[Served("served", 2.0, _USERS, degraded=4, agreement=0.5)])))
    assert "seed 3, test share 0.4" in text
    assert "served: 15 lists/s, 50.00% equal" in text
    assert "4 DEGRADED answers" in text
    assert "train 1.2 s" in text
    assert "1.00 GiB" in text


def test_a_comparison_says_by_how_much_and_how_sure() -> None:
    row = comparison_rows(_a_report().judged.comparisons)[0]
    assert row[:3] == ("served", "baseline", "ndcg@1")
    assert row[3].startswith("+")
    assert 0 < float(row[4]) <= 1


def test_every_plot_is_a_picture_and_a_drawing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = plot(_a_report(), tmp_path / "plots")
    assert {path.suffix for path in written} == {".png", ".svg"}
    assert len({path.stem for path in written}) == 4
    for path in written:
        begin = path.read_bytes()[:200]
        assert begin.startswith(b"\x89PNG") if path.suffix == ".png" else b"<?xml" in begin


def test_without_matplotlib_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present = builtins.__import__

    def absent(name: str, *others: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return present(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(PlottingUnavailable, match=r"recsvc\[plots\]"):
        plot(_a_report(), tmp_path)
