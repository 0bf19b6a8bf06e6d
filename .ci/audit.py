"""What is known against the packages that run in production, under which licences they come, and the list of them.

Runs in an environment of its own (`make audit`), so that the tools neither are audited nor change what is. The
vulnerability service is asked over the network: where it cannot be reached, this says so and goes on with the rest;
`--require-all` makes that a failure, for whoever releases.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
SBOM = ROOT / "build" / "sbom.json"
_TOOL_S = 600
_UNREACHABLE = re.compile(r"Could not connect[^\n]*|NameResolutionError|ConnectionError|ConnectTimeout|ReadTimeout")

# As the packages name them. All but two ask for no more than to be named; LGPL (psycopg) and MPL (tqdm) bind only who
# changes those packages' own files, which we do not.
ALLOWED = frozenset(
    {
        "0BSD", "3-Clause BSD License", "Apache Software License", "Apache-2.0", "BSD License", "BSD-2-Clause",
        "BSD-3-Clause", "CC0-1.0", "ISC License (ISCL)", "LGPL-3.0-only", "MIT", "MIT License", "MIT-0", "MPL-2.0",
        "PSF-2.0", "Zlib",
    }
)  # fmt: skip


def locked(lock: str) -> list[Requirement]:
    """The packages of a lock file that belong on this machine."""
    lines = [line.rstrip(" \\") for line in lock.splitlines() if line and line[0] not in "# "]
    found = [Requirement(line) for line in lines]
    return [each for each in found if each.marker is None or each.marker.evaluate()]


def is_allowed(licence: str) -> bool:
    """Whether a licence is allowed: by its name, or as an expression all of whose parts are, or one side of an OR."""
    return licence in ALLOWED or any(
        all(part in ALLOWED for part in re.split(r"; | AND ", side)) for side in licence.split(" OR ")
    )


def licence_faults(packages: Iterable[Requirement], licences: Mapping[str, str]) -> list[str]:
    """Packages whose licence is not allowed or not known. licences: by canonical name."""
    faults = []
    for package in packages:
        licence = licences.get(canonicalize_name(package.name), "not installed, so not known")
        if not is_allowed(licence):
            faults.append(f"{package.name}: {licence}")
    return faults


def _tool(*command: str) -> subprocess.CompletedProcess[str]:
    tools = Path(sys.executable).parent
    return subprocess.run(
        [str(tools / command[0]), *command[1:]], capture_output=True, text=True, timeout=_TOOL_S, check=False
    )


def _vulnerabilities() -> str:
    """An empty text, or what is wrong; raises ConnectionError when nobody could be asked."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = _tool(
            "pip-audit", "--requirement", str(LOCK), "--disable-pip", "--require-hashes", "--vulnerability-service",
            "osv", "--progress-spinner", "off", "--format", "json", "--output", str(report),
        )  # fmt: skip
        # The tool writes its report whenever it could ask about every package, whatever it found.
        if not report.exists() or not report.stat().st_size:
            if unreachable := _UNREACHABLE.search(done.stderr):
                raise ConnectionError(unreachable.group())
            return done.stderr
        packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    skipped = [f"{each['name']}: not audited, {each['skip_reason']}" for each in packages if "skip_reason" in each]
    known = [
        f"{each['name']} {each['version']}: {vulnerability['id']}, fixed in {', '.join(vulnerability['fix_versions'])}"
        for each in packages
        for vulnerability in each.get("vulns", ())
    ]
    return "\n".join(known + skipped)


def _licences(packages: list[Requirement]) -> str:
    done = _tool("pip-licenses", "--python", str(ROOT / ".venv/bin/python"), "--with-system", "--format", "json")
    if done.returncode:
        return done.stderr
    licences = {canonicalize_name(each["Name"]): each["License"] for each in json.loads(done.stdout)}
    return "\n".join(licence_faults(packages, licences))


def _bill_of_materials(packages: list[Requirement]) -> str:
    SBOM.parent.mkdir(exist_ok=True)
    done = _tool(
        "cyclonedx-py", "requirements", str(LOCK), "--pyproject", str(ROOT / "pyproject.toml"), "--validate",
        "--output-reproducible", "--output-format", "JSON", "--output-file", str(SBOM),
    )  # fmt: skip
    if done.returncode:
        return done.stderr
    listed = {canonicalize_name(each["name"]) for each in json.loads(SBOM.read_text(encoding="utf-8"))["components"]}
    missing = {canonicalize_name(package.name) for package in packages} - listed
    return f"not in {SBOM}: {', '.join(sorted(missing))}" if missing else ""


def main() -> int:
    """Print one line a check, and what it found; 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--require-all", action="store_true", help="fail when the vulnerability service is away")
    arguments = parser.parse_args()
    packages = locked(LOCK.read_text(encoding="utf-8"))
    failed = False
    for name, check in (
        ("licences", lambda: _licences(packages)),
        (f"bill of materials ({SBOM.relative_to(ROOT)})", lambda: _bill_of_materials(packages)),
        ("known vulnerabilities", _vulnerabilities),
    ):
        try:
            fault = check()
        except ConnectionError as error:
            print(f"{name}: NOT CHECKED, the vulnerability service could not be reached: {error}")
            failed |= arguments.require_all
            continue
        print(f"{name}: FAILED\n{fault}" if fault else f"{name}: {len(packages)} packages, nothing wrong")
        failed |= bool(fault)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
