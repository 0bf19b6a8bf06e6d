"""Makes the stubs of the service and of the Python client, or with --check proves that they are what the protos make.

protoc lays Python modules out by proto package, so `recsvc/v1` would collide with our own package and `buf/validate`
would claim a top-level name. The stubs therefore move under recsvc.gen (and recsvc_client.gen, since a caller should
not have to install the service), and their imports are rewritten to match.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# package of the stubs → folder
TARGETS = {
    "recsvc.gen": ROOT / "recsvc" / "gen",
    "recsvc_client.gen": ROOT / "clients" / "python" / "recsvc_client" / "gen",
}
# proto package folder → folder below that
PACKAGES = {"recsvc/v1": "v1", "buf/validate": "buf/validate"}


def generate(target: Path, package: str) -> None:
    """Write all stubs into `target`, to be imported as `package`."""
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "buf",
            "generate",
            "-o",
            folder,
            "--path",
            "protos/recsvc",
            "--path",
            "protos/third_party/buf",
        ]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        for source, destination in PACKAGES.items():
            place = target / destination
            place.mkdir(parents=True, exist_ok=True)
            for path in sorted((Path(folder) / source).iterdir()):
                # A file without services leaves an empty gRPC stub behind.
                if "_pb2_grpc" in path.name and "service" not in path.name:
                    continue
                (place / path.name).write_text(rewrite(path.read_text(encoding="utf-8"), package), encoding="utf-8")
    for folder_of_package in {target, *(path.parent for path in target.rglob("*_pb2.py")), target / "buf"}:
        (folder_of_package / "__init__.py").write_text('"""Generated from protos/: do not edit."""\n', encoding="utf-8")


def rewrite(source: str, package: str) -> str:
    """Point the imports of one generated module to `package`."""
    source = re.sub(r"\bfrom recsvc\.v1 import", f"from {package}.v1 import", source)
    source = re.sub(r"\bimport recsvc\.v1\.", f"import {package}.v1.", source)
    source = re.sub(r"\bfrom buf\.validate import", f"from {package}.buf.validate import", source)
    return re.sub(r"\bimport buf\.validate\.", f"import {package}.buf.validate.", source)


def differences(left: Path, right: Path) -> list[str]:
    """Files that differ between two folders or stand in one only."""
    names = {
        path.relative_to(base)
        for base in (left, right)
        for path in base.rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    }
    return sorted(
        str(name)
        for name in names
        if not ((left / name).exists() and (right / name).exists() and filecmp.cmp(left / name, right / name, False))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the stubs are not fresh")
    arguments = parser.parse_args()
    stale: list[str] = []
    for package, target in TARGETS.items():
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder) / "gen"
            generate(fresh, package)
            if arguments.check:
                stale += [f"{target.relative_to(ROOT)}/{name}" for name in differences(fresh, target)]
            else:
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(fresh, target)
    if arguments.check:
        print("\n".join(f"stale: {name}" for name in stale) or "the stubs are fresh")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
