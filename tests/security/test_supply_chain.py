"""What we ship is what we looked at: locked by hash, licensed, and packed into an image that can do little else."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
_LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    """The script behind `make audit`."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", _LOCKS)
def test_every_locked_package_is_pinned_to_one_version_by_its_hashes(name: str) -> None:
    packages = re.split(r"\n(?=[A-Za-z])", (ROOT / name).read_text(encoding="utf-8").strip())
    assert len(packages) > 20
    assert [each.splitlines()[0] for each in packages if "==" not in each or "--hash=sha256:" not in each] == []


@pytest.mark.parametrize(
    "licence", ["MIT", "Apache-2.0 AND MIT", "GPL-3.0-only OR MIT", "ISC License (ISCL)", "MIT License; BSD License"]
)
def test_an_allowed_licence_passes(audit: ModuleType, licence: str) -> None:
    assert audit.is_allowed(licence)


@pytest.mark.parametrize(
    "licence", ["UNKNOWN", "", "GPL-3.0-only", "MIT AND GPL-3.0-only", "MIT License; AGPL", "Proprietary"]
)
def test_a_licence_that_nobody_allowed_or_knows_fails(audit: ModuleType, licence: str) -> None:
    package = audit.locked("some-package==1.0 \\\n    --hash=sha256:00\n")
    assert audit.licence_faults(package, {"some-package": licence}) == [f"some-package: {licence}"]


def test_a_package_of_which_no_licence_is_found_fails(audit: ModuleType) -> None:
    package = audit.locked("some-package==1.0 \\\n    --hash=sha256:00\n")
    assert len(audit.licence_faults(package, {})) == 1


def test_an_unreachable_vulnerability_service_is_never_taken_for_a_clean_answer(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], 1, "", "ERROR: Could not connect to OSV's vulnerability feed\n")
    monkeypatch.setattr(audit, "_tool", lambda *_: done)
    with pytest.raises(ConnectionError):
        audit._vulnerabilities()


def test_a_known_vulnerability_is_told_with_its_fix(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"name": "p", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}

    def tool(*command: str) -> subprocess.CompletedProcess[str]:
        Path(command[-1]).write_text(json.dumps({"dependencies": [found]}), encoding="utf-8")
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(audit, "_tool", tool)
    assert audit._vulnerabilities() == "p 1: PYSEC-1, fixed in 2"


@pytest.fixture(scope="module")
def dockerfile() -> str:
    """Without comments, each instruction on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return text.replace("\\\n", " ")


def _final_stage(dockerfile: str) -> str:
    return dockerfile[dockerfile.rindex("\nFROM ") :]


def test_the_image_runs_as_a_numbered_user_that_is_not_root(dockerfile: str) -> None:
    users = re.findall(r"^USER\s+(\S+)", _final_stage(dockerfile), re.MULTILINE)
    assert users
    assert all(re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user) for user in users)


def test_nothing_in_the_image_is_fetched_past_the_lock(dockerfile: str) -> None:
    assert re.findall(r"^ADD\b", dockerfile, re.MULTILINE) == []
    assert re.findall(r"\b(curl|wget|git clone)\b", dockerfile) == []
    installs = re.findall(r"^RUN .*pip.*", dockerfile, re.MULTILINE)
    assert installs
    assert all("--require-hashes" in each or "--no-deps" in each for each in installs)


def test_what_the_image_runs_needs_no_shell(dockerfile: str) -> None:
    commands = re.findall(r"\b(RUN|ENTRYPOINT|CMD)\s+(\S)", dockerfile)
    assert {name for name, _ in commands} == {"RUN", "ENTRYPOINT", "CMD"}
    assert [name for name, first in commands if first != "["] == []
    assert re.findall(r"^HEALTHCHECK .* CMD \[", _final_stage(dockerfile), re.MULTILINE)


def test_the_final_stage_runs_no_command_and_has_no_shell(dockerfile: str) -> None:
    final = _final_stage(dockerfile)
    assert re.findall(r"^RUN\b", final, re.MULTILINE) == []
    assert re.match(r"\nFROM \S*distroless\S*", final)


def test_every_base_is_pinned_by_a_tag_that_is_not_latest(dockerfile: str) -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE))
    bases = [base for base in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) if base not in stages]
    assert bases
    assert [base for base in bases if not re.search(r":(?!latest\b)[\w.-]+(@sha256:[0-9a-f]{64})?$", base)] == []


def test_the_image_is_built_from_what_it_needs_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*"
    assert [line for line in ignored if line.startswith("!")] == [
        "!pyproject.toml", "!README.md", "!requirements.lock", "!recsvc",
    ]  # fmt: skip


def test_the_python_of_the_image_is_the_one_that_the_locks_are_for(dockerfile: str) -> None:
    lock = re.search(r"--python-version (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert lock is not None
    assert re.findall(r"python:(\d+\.\d+)", dockerfile) == [lock.group(1)]
    assert sys.version_info >= tuple(map(int, lock.group(1).split(".")))
