"""compat.daemon's sockets, pidfile and systemd's protocol, against the real kernel."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from compat.daemon import listeners, pidfile, systemd
from compat.daemon.listeners import Listener, ListenError
from engine.config import EngineConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def opened(*hosts: str, fds: tuple[int, ...] = (), **settings: bool) -> Iterator[list[Listener]]:
    config = EngineConfig(hosts=hosts, group="", **settings)  # type: ignore[arg-type]
    found = listeners.open_all(config, fds)
    try:
        yield found
    finally:
        for listener in found:
            listener.close()


# unix://


def test_the_socket_has_its_mode_and_goes_with_its_daemon(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "d.sock"
    with opened(f"unix://{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert [p.name for p in path.parent.iterdir()] == ["d.sock"]
    assert not path.exists()


def test_the_mode_is_right_from_the_first_instant(tmp_path: Path) -> None:
    """Whatever umask the daemon was started with, no name in the folder is ever more open."""
    path = tmp_path / "d.sock"
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for entry in os.scandir(tmp_path):
                with contextlib.suppress(FileNotFoundError):
                    seen.add(stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode))

    old = os.umask(0)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(100):
            with opened(f"unix://{path}"):
                pass
    finally:
        done.set()
        watcher.join()
        os.umask(old)
    assert seen <= {0o600, 0o660}


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with opened(f"unix://{path}"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_living_engine_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        inode = path.stat().st_ino
        with pytest.raises(ListenError, match="another engine is listening there"):
            listeners.open_all(EngineConfig(hosts=(f"unix://{path}",), group=""), ())
        assert path.stat().st_ino == inode


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "d.sock"
    match kind:
        case "file":
            path.write_text("precious")
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case _:
            path.mkdir()
    with pytest.raises(ListenError, match="can't create unix socket"):
        listeners.open_all(EngineConfig(hosts=(f"unix://{path}",), group=""), ())
    assert [p.name for p in tmp_path.iterdir()] == ["d.sock"]


def test_a_successors_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    with opened(f"unix://{path}"):
        path.unlink()
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"


def test_one_bad_host_opens_none(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    config = EngineConfig(hosts=(f"unix://{path}", "tcp://0.0.0.0:1"), group="")
    with pytest.raises(ListenError):
        listeners.open_all(config, ())
    assert not path.exists()


def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = EngineConfig(hosts=(f"unix://{tmp_path}/d.sock",), group="no-such-group")
    with pytest.raises(ListenError, match="group no-such-group not found"):
        listeners.open_all(config, ())


# tcp://


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_loopback_needs_no_certificates(host: str) -> None:
    with opened(f"tcp://{host}:{free_port()}") as (listener,):
        with socket.create_connection(listener.socket.getsockname()[:2], 5):
            pass
        assert listeners.is_loopback(listener.socket.getsockname()[0])


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_the_world_needs_certificates_or_a_word(host: str) -> None:
    where = f"tcp://{host}:{free_port()}"
    for settings in ({}, {"tls": True}):
        with (
            pytest.raises(ListenError, match="refusing to listen on tcp://"),
            opened(where, **settings),
        ):
            pass
    with opened(where, tls=True, tls_verify=True) as found:
        assert len(found) == 1
    with opened(where, allow_insecure_tcp=True) as found:
        assert len(found) == 1


def test_a_taken_port_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ListenError, match=f"listen tcp 127.0.0.1:{port}: bind: address already"
        ):
            listeners.open_all(EngineConfig(hosts=(f"tcp://127.0.0.1:{port}",)), ())


# fd://


def passed(tmp_path: Path, name: str = "s.sock") -> int:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(tmp_path / name))
    made.listen()
    return made.detach()


def test_sockets_of_systemd_are_used_and_stay(tmp_path: Path) -> None:
    fds = (passed(tmp_path, "a"), passed(tmp_path, "b"))
    with opened("fd://", fds=fds) as found:
        assert [listener.address for listener in found] == [str(tmp_path / n) for n in "ab"]
    assert (tmp_path / "a").exists()


def test_one_of_them_can_be_chosen(tmp_path: Path) -> None:
    first, second = passed(tmp_path, "a"), passed(tmp_path, "b")
    with opened(f"fd://{second}", fds=(first, second)) as found:
        assert [listener.socket.fileno() for listener in found] == [second]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)


def test_activation_that_did_not_happen_is_said(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="no sockets found via socket activation"):
        listeners.open_all(EngineConfig(hosts=("fd://",)), ())
    fd = passed(tmp_path)
    for host, complaint in (("fd://x", "should be a number"), ("fd://9999", "too few")):
        with pytest.raises(ListenError, match=complaint):
            listeners.open_all(EngineConfig(hosts=(host,)), (fd,))
    os.close(fd)


def test_descriptors_meant_for_another_process_are_not_ours() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "HOME": "/"}
    assert systemd.listen_fds(environ) == []
    assert environ == {"HOME": "/"}


def test_readiness_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1")
        manager.settimeout(5)
        assert manager.recv(100) == b"READY=1"
    systemd.notify("READY=1")  # nobody there any more: no harm


# The pidfile


def test_the_pidfile_is_held_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "d.pid"
    with pidfile.held(str(path)):
        assert path.read_text() == str(os.getpid())
        refused = pytest.raises(pidfile.StillRunning, match=f"PID {os.getpid()} is still running")
        with refused, pidfile.held(str(path)):
            pass
        assert path.exists()
    assert not path.exists()


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_another_engines_pidfile_counts_while_it_lives(tmp_path: Path, sleeper: int) -> None:
    path = tmp_path / "d.pid"
    path.write_text(f"{sleeper}\n")
    refused = pytest.raises(pidfile.StillRunning, match=f"PID {sleeper} is still running")
    with refused, pidfile.held(str(path)):
        pass
    assert path.read_text() == f"{sleeper}\n"
    os.kill(sleeper, signal.SIGKILL)
    os.waitpid(sleeper, 0)
    with pidfile.held(str(path)):
        assert path.read_text() == str(os.getpid())


def test_a_number_that_was_given_to_a_younger_process_does_not_count(
    tmp_path: Path, sleeper: int
) -> None:
    path = tmp_path / "d.pid"
    path.write_text(str(sleeper))
    os.utime(path, (1_000_000_000, 1_000_000_000))
    with pidfile.held(str(path)):
        assert path.read_text() == str(os.getpid())


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "99999999999999999999"])
def test_what_is_no_number_does_not_count(tmp_path: Path, text: str) -> None:
    path = tmp_path / "d.pid"
    path.write_text(text)
    with pidfile.held(str(path)):
        assert path.read_text() == str(os.getpid())


def test_no_pidfile_at_all() -> None:
    with pidfile.held(""):
        pass


def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    path = tmp_path / "d.pid"
    with pidfile.held(str(path)):
        fd = os.open(path, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
