"""compat.server as a process, with an engine that does nothing: start, serve, stop, refuse."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs root")

# The command with its two rooms above the sockets replaced by an empty engine and a small app.
PROGRAM = """
import asyncio, sys, types
from aiohttp import web
from engine.events import EventBus

class Engine:
    def __init__(self, config): self.events = EventBus(); self.config = config
    @classmethod
    async def open(cls, config):
        if config.labels == ("fail=1",):
            from engine.errors import EngineError
            raise EngineError("the database is newer than this daemon")
        return cls(config)
    async def close(self): print("engine closed", flush=True)

def create_app(engine, config):
    async def ping(request):
        return web.Response(text=f"OK {config.default_ulimits[0]}")
    async def stream(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        if request.match_info["how"] == "events":
            with engine.events.subscribe() as subscription:
                async for _ in subscription: pass
            await response.write(b"last")
        else:
            await asyncio.sleep(3600)
        return response
    app = web.Application()
    app.router.add_get("/_ping", ping)
    app.router.add_get("/stream/{how}", stream)
    return app

def create_runner(app, **options):
    return web.AppRunner(app, handler_cancellation=True, access_log=None, **options)

for name, members in (("engine.engine", [Engine]), ("compat.app", [create_app, create_runner])):
    module = types.ModuleType(name)
    for member in members:
        setattr(module, member.__name__, member)
    sys.modules[name] = module
from compat.server import main
sys.exit(main())
"""


class Connection(http.client.HTTPConnection):
    """HTTP over the daemon's Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        try:
            self.sock.connect(str(self.path))
        except OSError:
            self.sock.close()
            raise


@contextlib.contextmanager
def asked(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers or {})
        with connection.getresponse() as response:
            yield response


class Daemon:
    """The command on a folder of its own."""

    def __init__(self, root: Path, *argv: str) -> None:
        self.socket = root / "d.sock"
        self.pidfile = root / "d.pid"
        self.started = time.monotonic()
        options = (
            *(f"--host=unix://{self.socket}", "--group=", "--config-file="),
            *(f"--data-root={root}/data", f"--exec-root={root}/exec"),
            *(f"--pidfile={self.pidfile}", *argv),
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        with asked(Connection(self.socket), path, headers) as response:
            return response.status, response.read().decode()

    def wait_until_up(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                assert self.get("/_ping")[0] == 200
                return
            assert self.process.poll() is None, self.output()
            assert time.monotonic() - self.started < 20
            time.sleep(0.01)

    def output(self) -> str:
        return self.process.communicate(timeout=20)[0]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        output = self.output()
        return self.process.returncode, output

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """A function that starts the command with further flags; all are ended after the test."""
    with contextlib.ExitStack() as stack:

        def started(*argv: str) -> Daemon:
            daemon = Daemon(tmp_path, *argv)
            stack.callback(daemon.end)
            return daemon

        yield started


@pytest.fixture
def daemon(start: Callable[..., Daemon]) -> Daemon:
    made = start()
    made.wait_until_up()
    return made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(daemon: Daemon, number: signal.Signals) -> None:
    assert daemon.pidfile.read_text() == str(daemon.process.pid)
    code, output = daemon.stop(number)
    assert code == 0
    assert "engine closed" in output
    assert f"Processing signal '{number.name}'" in output
    assert "Traceback" not in output
    assert not daemon.socket.exists()
    assert not daemon.pidfile.exists()


def test_streams_do_not_hold_it_up(daemon: Daemon) -> None:
    one, other = Connection(daemon.socket), Connection(daemon.socket)
    with asked(one, "/stream/events") as events, asked(other, "/stream/endless") as endless:
        assert (events.read1(5), endless.read1(5)) == (b"first", b"first")
        before = time.monotonic()
        assert daemon.stop()[0] == 0
        assert time.monotonic() - before < 5
        assert events.read() == b"last"


def test_it_stays_for_hangup(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.get("/_ping")[0] == 200
    assert "restart the daemon" in daemon.stop()[1]


def test_a_killed_daemon_is_no_hindrance(daemon: Daemon, start: Callable[..., Daemon]) -> None:
    daemon.process.kill()
    daemon.process.wait()
    assert daemon.socket.exists()
    successor = start()
    successor.wait_until_up()
    assert successor.stop()[0] == 0


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "is still running"),
        (["--pidfile=/proc/self/nope/x"], "failed to start daemon: "),
    ],
)
def test_a_second_daemon_says_why_not(
    daemon: Daemon, start: Callable[..., Daemon], argv: list[str], sentence: str
) -> None:
    second = start(*argv)
    output = second.output()
    assert second.process.returncode == 1
    assert sentence in output
    assert "Traceback" not in output
    assert daemon.get("/_ping")[0] == 200


def test_another_engine_on_the_socket_is_left_alone(
    daemon: Daemon, start: Callable[..., Daemon], tmp_path: Path
) -> None:
    second = start(f"--data-root={tmp_path}/other", "--pidfile=")
    assert "another engine is listening there" in second.output()
    assert second.process.returncode == 1
    assert daemon.get("/_ping")[0] == 200


def test_an_engine_that_cannot_start_is_a_sentence(start: Callable[..., Daemon]) -> None:
    daemon = start("--label=fail=1")
    output = daemon.output()
    assert daemon.process.returncode == 1
    assert "failed to start daemon: the database is newer than this daemon" in output
    assert "Traceback" not in output
    assert not daemon.socket.exists()


def test_containers_get_the_limit_the_daemon_came_with(daemon: Daemon) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert daemon.get("/_ping")[1] == f"OK nofile={soft}:{hard}"
    with open(f"/proc/{daemon.process.pid}/limits") as limits:
        line = next(line for line in limits if line.startswith("Max open files"))
    assert line.split()[3] == str(hard)


# A browser on the same host


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 200), ({"Origin": "https://evil.example"}, 403), ({"Host": "evil.example"}, 403)],
)
def test_tcp_on_loopback_refuses_web_pages(
    start: Callable[..., Daemon], headers: dict[str, str], status: int
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = start(f"--host=tcp://127.0.0.1:{port}")
    daemon.wait_until_up()
    with asked(http.client.HTTPConnection("127.0.0.1", port), "/_ping", headers) as answer:
        assert answer.status == status
        assert b'"message"' in answer.read() or status == 200
    assert daemon.get("/_ping", headers)[0] == 200
