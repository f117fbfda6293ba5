"""The engine under test: Wharf as a process of its own, or whichever engine the environment names.

`WHARF_TEST_HOST` names another engine (`unix:///…`); the suite then asks it only for stock
behaviour. `WHARF_TEST_BINDS` names a folder that engine and tests both see under one path, and
`WHARF_TEST_CERTS` the engine's /etc/docker/certs.d, where that is not the host's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from tests.support import leftovers

HOST_VARIABLE = "WHARF_TEST_HOST"
BINDS_VARIABLE = "WHARF_TEST_BINDS"
CERTS_VARIABLE = "WHARF_TEST_CERTS"
START_TIMEOUT_S = 20.0


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float = 60) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The sentence of an error."""
        return str(json.loads(self.body)["message"])


class Engine:
    """How the tests reach an engine: the stock CLI, plain HTTP, or raw bytes on its socket."""

    is_wharf = False

    def __init__(self, host: str, binds: Path) -> None:
        self.host = host
        self.socket_path = host.removeprefix("unix://")
        self.binds = binds
        self.certs = Path(os.environ.get(CERTS_VARIABLE) or "/etc/docker/certs.d")
        self.cli_config = tempfile.mkdtemp(prefix="wharf-cli-")

    def environment(self) -> dict[str, str]:
        return dict(os.environ, DOCKER_HOST=self.host, DOCKER_CONFIG=self.cli_config)

    def docker(
        self,
        *args: str,
        input: bytes | str | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the stock CLI; with `check`, a non-zero exit fails with what it printed."""
        if isinstance(input, str):
            input = input.encode()
        done = subprocess.run(
            ["docker", *args],
            env=self.environment(),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"docker {' '.join(args)} exited {done.returncode}\n"
                f"stdout: {done.stdout[-2000:]!r}\nstderr: {done.stderr[-2000:]!r}"
            )
        return done

    def out(self, *args: str, input: bytes | str | None = None, timeout: float = 60) -> str:
        """What the CLI prints, without the last line end."""
        return self.docker(*args, input=input, timeout=timeout).stdout.decode().rstrip("\n")

    def popen(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["docker", *args], env=self.environment(), **options)

    def inspect(self, ref: str) -> dict[str, Any]:
        return json.loads(self.out("inspect", ref))[0]

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Reply:
        """One HTTP request; `body` is bytes as they are, or anything JSON can say."""
        head = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            head.setdefault("Content-Type", "application/json")
        connection = UnixConnection(self.socket_path, timeout)
        try:
            connection.request(method, path, body, head)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def raw(self) -> socket.socket:
        """A bare connection to the engine's socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(self.socket_path)
        return connection

    def close(self) -> None:
        shutil.rmtree(self.cli_config, ignore_errors=True)


class Wharf(Engine):
    """A wharfd of our own with folders of its own."""

    is_wharf = True

    def __init__(self, *flags: str, root: Path | None = None) -> None:
        self.root = root or Path(tempfile.mkdtemp(prefix="wharf-e2e-", dir="/var/tmp"))
        self.flags = flags
        self.log_path = self.root / "wharfd.log"
        self.process: subprocess.Popen[bytes] | None = None
        binds = self.root / "binds"
        binds.mkdir(exist_ok=True)
        super().__init__(f"unix://{self.root}/docker.sock", binds)

    @property
    def data_root(self) -> Path:
        return self.root / "data"

    @property
    def instance(self) -> str:
        """What the names of this instance on the host carry."""
        return EngineConfig(data_root=str(self.data_root)).instance

    @property
    def exec_root(self) -> Path:
        return self.root / "exec"

    def command(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "compat",
            "-H",
            self.host,
            "--data-root",
            str(self.data_root),
            "--exec-root",
            str(self.exec_root),
            "--pidfile",
            str(self.root / "wharfd.pid"),
            "--config-file",
            str(self.root / "daemon.json"),
            *self.flags,
        ]

    def start(self) -> None:
        config = self.root / "daemon.json"
        if not config.exists():
            config.write_text("{}")
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"wharfd ended at its start:\n{self.log_tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.call("GET", "/_ping").status == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"wharfd did not answer:\n{self.log_tail()}")

    def log_tail(self, characters: int = 6000) -> str:
        return self.log_path.read_text(errors="replace")[-characters:]

    def kill(self) -> None:
        """End the daemon as a crash would: at once, with no chance to tidy up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, signum: int) -> None:
        if self.process is not None:
            self.process.send_signal(signum)
            self.process.wait(30)
            self.process = None

    def remove_everything(self) -> None:
        for ref in self.out("ps", "-aq").split():
            self.docker("rm", "-fv", ref, check=False)
        self.docker("volume", "prune", "-af", check=False)
        self.docker("network", "prune", "-f", check=False)

    def close(self) -> None:
        """The end, however it came to it: nothing of the instance stays on the host."""
        self.kill()
        super().close()
        leftovers.remove(self.root, self.instance)
        shutil.rmtree(self.root, ignore_errors=True)


def named_by_environment() -> Engine | None:
    host = os.environ.get(HOST_VARIABLE)
    if not host:
        return None
    return Engine(host, Path(os.environ.get(BINDS_VARIABLE) or "/dev/shm"))
