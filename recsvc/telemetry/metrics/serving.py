"""Lists on their way: where their candidates came from, what took their place, who watches them."""

from __future__ import annotations

from recsvc.telemetry.metrics.registered import SUM, Registered


class ServingMetrics(Registered):
    """Candidates, degraded answers, watchers."""

    def __init__(self) -> None:
        super().__init__()
        self.candidate_questions = self._counter(
            "recsvc_candidate_questions_total",
            "Questions for candidates, by what answered them: a snapshot in the process or a search in PostgreSQL.",
            "by",
        )
        self.degraded = self._counter(
            "recsvc_degraded_answers_total",
            "Lists that are less than they could be, by where they came from instead.",
            "origin",
        )
        self.shown_dropped = self._counter("recsvc_shown_dropped_total", "Shown lists that were not logged.")
        self.watchers = self._gauge("recsvc_watchers", "Lists that are being watched.", workers=SUM)
        self.watch_updates = self._counter("recsvc_watch_updates_total", "Changed lists sent to watchers.")
