"""Lines are written in order and whole; where nobody reads them, neither the loop nor the end of a process waits."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from recsvc.telemetry.line_writer import LineWriter

_PIPE_BYTES = 65_536
_TELLS = """
import sys, structlog
from recsvc.telemetry.logging import configure
configure("INFO", "json")
for _ in range({lines}):
    structlog.get_logger("recsvc.test").info("start.arrived", waited_for="x" * 400)
print("told", flush=True)
"""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its end to read and its end to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def _told(writer: LineWriter, *texts: str) -> None:
    for text in texts:
        writer.handle(logging.LogRecord("recsvc", logging.INFO, "", 0, text, (), None))


def test_lines_are_written_in_their_order_by_the_time_of_a_flush(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    _told(writer, "a", "b", "c")
    writer.flush()
    assert os.read(pipe[0], 100) == b"a\nb\nc\n"


def test_a_pipe_that_takes_nothing_now_gets_the_rest_of_a_line_later(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer = LineWriter(pipe[1])
    _told(writer, "x" * 2 * _PIPE_BYTES)
    received = b""
    while not received.endswith(b"\n"):
        received += os.read(pipe[0], _PIPE_BYTES)
    assert len(received) == 2 * _PIPE_BYTES + 1


def test_where_nobody_reads_lines_are_dropped_and_nobody_waits(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], lines=10)
    # More than the pipe and the queue hold, by a thread so that waiting for ever fails the test and not the run.
    telling = threading.Thread(target=_told, args=(writer, *["x" * 4000] * 100), daemon=True)
    telling.start()
    telling.join(10)
    assert not telling.is_alive()
    os.set_blocking(pipe[0], False)
    received = b""
    deadline = time.monotonic() + 10
    while received.count(b"\n") < 10 and time.monotonic() < deadline:
        try:
            received += os.read(pipe[0], _PIPE_BYTES)
        except BlockingIOError:
            time.sleep(0.01)
    writer.flush()
    assert received.count(b"\n") < 100


def test_once_a_file_can_be_written_again_it_is(pipe: tuple[int, int]) -> None:
    file = os.open(os.devnull, os.O_RDONLY)
    writer = LineWriter(file)
    _told(writer, "a")
    writer.flush()
    os.dup2(pipe[1], file)
    _told(writer, "b")
    writer.flush()
    os.close(file)
    assert os.read(pipe[0], 100) == b"b\n"


def test_all_that_was_told_is_written_before_the_process_ends() -> None:
    done = subprocess.run([sys.executable, "-c", _TELLS.format(lines=500)], capture_output=True, timeout=60, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 500


def test_a_process_ends_although_nobody_reads_what_it_says() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _TELLS.format(lines=5000)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"told\n"
        assert process.wait(10) == 0


def test_what_was_dropped_is_counted_once_somebody_reads() -> None:
    tells = _TELLS.format(lines=5000) + "sys.stdin.readline()\n"
    with subprocess.Popen(
        [sys.executable, "-c", tells], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"told\n"
        written: list[dict[str, object]] = []
        while not written or written[-1]["event"] != "log.dropped":
            written.append(json.loads(process.stderr.readline()))
        process.stdin.close()
        rest = [json.loads(line) for line in process.stderr]
    arrived = [line for line in (*written, *rest) if line["event"] == "start.arrived"]
    dropped = [line["lines"] for line in (*written, *rest) if line["event"] == "log.dropped"]
    assert len(arrived) < 5000
    assert len(arrived) + sum(map(int, map(str, dropped))) == 5000
