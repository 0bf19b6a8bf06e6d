"""Text files as data sets come in: in a folder or in a zip archive (a wheel is one), perhaps gzipped, in some encoding.

Lines are decoded one at a time, so that a wrong byte is told with the line where it stands. What the lines mean is not
known here.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from recsvc.datasets.source import DatasetError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What a damaged or vanished file raises while it is read, besides a wrong byte.
_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class TextFile:
    """One text file. `path` is where it lies, or where the archive lies whose `member` it is."""

    path: Path
    member: str = ""
    encoding: str = "utf-8"

    @property
    def place(self) -> Path:
        """What errors call the file."""
        return self.path / self.member if self.member else self.path

    def lines(self) -> Iterator[str]:
        """The lines, with their ends."""
        number = 0
        try:
            with self._bytes() as stream:
                for raw in stream:
                    number += 1
                    if number == 1 and raw.startswith(_BYTE_ORDER_MARK):
                        raw = raw[len(_BYTE_ORDER_MARK) :]
                    yield raw.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise DatasetError(self.place, number, f"holds bytes that are not {self.encoding}") from error
        except _UNREADABLE as error:
            raise DatasetError(self.place, number + 1, f"cannot be read: {error}") from error

    def line_count(self) -> int:
        """How many lines there are; reads the whole file, undecoded."""
        count, last = 0, b"\n"
        try:
            with self._bytes() as stream:
                while chunk := stream.read(1 << 20):
                    count += chunk.count(b"\n")
                    last = chunk[-1:]
        except _UNREADABLE as error:
            raise DatasetError(self.place, None, f"cannot be read: {error}") from error
        return count + (last != b"\n")

    def row_count(self) -> int:
        """How many lines follow a header."""
        return max(0, self.line_count() - 1)

    @contextmanager
    def _bytes(self) -> Iterator[IO[bytes]]:
        if self.member:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield stream
        elif self.path.suffix == ".gz":
            with gzip.open(self.path, "rb") as zipped:
                yield cast(IO[bytes], zipped)
        else:
            with self.path.open("rb") as plain:
                yield plain


class Folder:
    """The files of a folder, or of a zip archive whatever folders are in it, by their names."""

    def __init__(self, path: Path) -> None:
        """Raises DatasetError when `path` is neither a folder nor a zip archive."""
        self.path = path
        self._members: dict[str, str] = {}
        if path.is_dir():
            self._names = sorted(entry.name for entry in path.iterdir())
        elif path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                self._members = {PurePosixPath(name).name: name for name in reversed(archive.namelist())}
            self._names = sorted(self._members)
        else:
            what = "is neither a folder nor a zip archive" if path.exists() else "does not exist"
            raise DatasetError(path, None, what)

    def __contains__(self, name: str) -> bool:
        return name in self._names or f"{name}.gz" in self._names

    def with_suffix(self, suffix: str) -> str | None:
        """The name of the first file that ends so, or None."""
        return next((name for name in self._names if name.endswith(suffix)), None)

    def file(self, name: str, encoding: str = "utf-8") -> TextFile:
        """The file of that name, gzipped or not. Raises DatasetError when there is none."""
        if name in self._members:
            return TextFile(self.path, self._members[name], encoding)
        if not self._members:
            for candidate in (name, f"{name}.gz"):
                if candidate in self._names:
                    return TextFile(self.path / candidate, encoding=encoding)
        raise DatasetError(self.path, None, f"has no file {name!r}")


def only_file(path: Path, name: str) -> TextFile:
    """`path` itself when it is a file, else the file `name` (or `name`.gz) in the folder `path`."""
    return TextFile(path) if path.is_file() else Folder(path).file(name)


PARTS = ("items", "users", "events")


def parts(path: Path, suffix: str) -> dict[str, TextFile]:
    """Those of the files `items`, `users` and `events` with this suffix that the folder or archive has, at least one.

    `path` may be one of these files itself; then the others are missing.
    """
    if path.is_file() and path.name.removesuffix(".gz").endswith(suffix):
        found = {path.name.removesuffix(".gz").removesuffix(suffix): TextFile(path)}
    else:
        folder = Folder(path)
        found = {part: folder.file(f"{part}{suffix}") for part in PARTS if f"{part}{suffix}" in folder}
    if not found.keys() & set(PARTS):
        raise DatasetError(path, None, f"holds none of {', '.join(f'{part}{suffix}' for part in PARTS)}")
    return found
