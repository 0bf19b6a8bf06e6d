"""What the embedded servers have in common: under which account they run, where their sockets are, how a log ends.

PostgreSQL refuses to run as root, so as root both servers run as `nobody`, and their folders belong to it. Sockets
live in a short folder of their own, because a unix socket's path may not be longer than about 107 bytes.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)
_MAX_LOG_BYTES = 10 * 1024 * 1024


class EmbeddedServerError(RuntimeError):
    """Occurs when an embedded server cannot be started or stopped; the message ends with its log's last lines."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the servers run under: `nobody` for root, otherwise our own (uid None)."""

    uid: int | None
    gid: int | None

    @classmethod
    def current(cls) -> Account:
        """The right account for this process."""
        if os.geteuid() != 0:
            return cls(None, None)
        entry = pwd.getpwnam("nobody")
        return cls(entry.pw_uid, entry.pw_gid)

    def own(self, folder: Path) -> None:
        """Make the folder if need be, private to the account, and let the account reach it."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.uid is not None and self.gid is not None:
            os.chown(folder, self.uid, self.gid)
            self.let_reach(folder)
        folder.chmod(0o700)

    def own_sockets(self, folder: Path) -> None:
        """`own` for a folder in /tmp, where anybody may have put something under that name before us.

        A link there would make root hand over the folder it points to; a stranger's folder may hold a false server.
        """
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), self.uid):
            raise EmbeddedServerError(f"the socket folder {folder} is not ours: remove it")
        self.own(folder)

    def let_reach(self, path: Path) -> None:
        """As root, give others the search right (not the right to list) on the folders above `path`.

        A clone in /root could not be served otherwise. Each change is logged.
        """
        if self.uid is None:
            return
        for parent in path.resolve().parents:
            mode = parent.stat().st_mode
            if not mode & stat.S_IXOTH:
                _log.warning("embedded.folder_opened", folder=str(parent), needed_for=str(path))
                parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

    def run(self, command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a command under the account, in a session of its own so that a terminal's Ctrl-C does not reach it.

        Raises EmbeddedServerError when it cannot be run at all, or not in time.
        """
        # A daemon that the command leaves behind would keep a pipe open and block us, so output goes to a file.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            try:
                done = subprocess.run(  # noqa: S603
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    user=self.uid,
                    group=self.gid,
                    extra_groups=[] if self.uid is not None else None,
                    cwd="/",
                    start_new_session=True,
                    timeout=timeout_s,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise EmbeddedServerError(f"{Path(command[0]).name} cannot be run: {error}") from error
            output.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, output.read(), "")


def socket_folder(data_dir: Path) -> Path:
    """A short path that is the same for every process that uses `data_dir`."""
    digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
    return Path("/tmp") / f"recsvc-{os.geteuid()}-{digest}"  # noqa: S108  (its owner is checked by Account.own_sockets)


def trim_log(log: Path) -> None:
    """Begin the log anew when it has grown past its bound; the old one stays beside it."""
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for error messages."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
