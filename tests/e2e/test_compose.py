"""Compose v2, unchanged, with an application of five services.

They wait for each other's health and ends, stand on two networks (one of them internal) with
aliases, and have a volume, a config and a secret from files. Daemon and tests share the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import own_wharf
from tests.support import leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock

SERVICES = {"api", "cache", "db", "migrate", "web"}
LONG_S = 180


class App:
    """One project in a folder that both sides see."""

    def __init__(self, engine: Engine, name: str, folder: Path) -> None:
        self.engine = engine
        self.name = name
        self.folder = folder
        shutil.copy(Path(__file__).with_name("compose") / "compose.yaml", folder)
        (folder / "api.conf").write_text("key = value\n")
        (folder / "password").write_text("secret\n")

    def __call__(self, *args: str, check: bool = True, **env: str) -> str:
        command = ["docker", "compose", "--ansi", "never", "--progress", "quiet", *args]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.engine.environment(), "APP": self.name, **env},
            capture_output=True,
            text=True,
            timeout=LONG_S,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(args)}: {done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def status(self) -> dict[str, str]:
        """State, health and exit code of all containers, by their names less the project's."""
        shown = self("ps", "-a", "--format", "{{.Name}} {{.State}}/{{.Health}}/{{.ExitCode}}")
        pairs = (line.split(" ", 1) for line in shown.splitlines())
        return {name.removeprefix(f"{self.name}-"): state for name, state in pairs}

    def container(self, name: str) -> str:
        return str(self.engine.inspect(f"{self.name}-{name}")["Id"])


def give_plugin(engine: Engine) -> None:
    """The client looks for it in its own configuration, which tests keep apart."""
    own = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "cli-plugins"
    if own.is_dir():
        with contextlib.suppress(FileExistsError):
            (Path(engine.cli_config) / "cli-plugins").symlink_to(own)


@pytest.fixture(scope="module", autouse=True)
def compose(engine: Engine) -> None:
    give_plugin(engine)
    found = engine.docker("compose", "version", "--short", check=False)
    if found.returncode != 0 or not found.stdout.decode().lstrip("v").startswith("2."):
        pytest.skip("no Compose v2")


@contextlib.contextmanager
def started(engine: Engine, name: str, folder: Path) -> Iterator[App]:
    give_plugin(engine)
    app = App(engine, name, folder)
    try:
        app("up", "-d", "--wait")
        yield app
    finally:
        app("--profile", "debug", "down", "-v", "-t", "0", check=False)


@pytest.fixture
def app(engine: Engine, name: str, folder: Path) -> Iterator[App]:
    with started(engine, name[:40], folder) as app:
        yield app


UP = {
    "api-1": "running/healthy/0",
    "cache-1": "running/healthy/0",
    "db-1": "running/healthy/0",
    "migrate-1": "exited//0",
    "web-1": "running/healthy/0",
}


def test_what_it_made(app: App) -> None:
    assert app.status() == UP
    assert app("logs", "--no-log-prefix", "migrate") == "migrated"
    # Names and aliases, each on its networks.
    assert app("exec", "-T", "web", "wget", "-qO-", "http://api:8000/conf") == "key = value"
    # Nobody on the other network is known.
    assert "find redis" in app("exec", "-T", "web", "sh", "-c", "nslookup redis 2>&1", check=False)
    for known in ("redis", "cache", "backend", "db"):
        assert "Address" in app("exec", "-T", "api", "nslookup", known)
    assert app("exec", "-T", "api", "sh", "-c", "nc redis 6379 < /dev/null") == "pong"
    # Files, and a volume that two of them share.
    assert app("exec", "-T", "db", "cat", "/run/secrets/password", "/data/migrated") == (
        "secret\nsecret"
    )
    assert app("exec", "-T", "api", "cat", "/etc/api.conf") == "key = value"
    # The published port, from here.
    where = app("port", "web", "80")
    with urllib.request.urlopen(f"http://{where}/", timeout=5) as answer:
        assert answer.read().startswith(b"api ")
    assert "sleep 1000" in app("top", "db")
    assert set(app("ps", "-a", "--services").split()) == SERVICES
    # Nothing to do is nothing done.
    before = {name: app.container(name) for name in UP}
    app("up", "-d", "--wait")
    assert {name: app.container(name) for name in UP} == before


def test_more_of_one_and_less(app: App) -> None:
    app("up", "-d", "--wait", "--no-recreate", "--scale", "api=3")
    assert app.status() == {**UP, "api-2": "running/healthy/0", "api-3": "running/healthy/0"}
    shown = app("exec", "-T", "web", "nslookup", "api")
    assert sum(line.startswith("Address") for line in shown.splitlines()) >= 4
    app("scale", "api=1")
    assert app.status() == UP


def test_what_has_changed_is_made_anew(app: App) -> None:
    before = {name: app.container(name) for name in UP}
    app("up", "-d", "--wait", VERSION="2")
    after = {name: app.container(name) for name in UP}
    assert {name for name in UP if before[name] != after[name]} == {"api-1"}
    assert app("exec", "-T", "api", "sh", "-c", "echo $VERSION", VERSION="2") == "2"
    assert app.status() == UP


def test_a_profile(app: App) -> None:
    assert "debug-1" not in app.status()
    app("--profile", "debug", "up", "-d", "--wait")
    assert app.status() == {**UP, "debug-1": "running//0"}
    both = "wget -qO- http://api:8000/conf && nslookup db >/dev/null && echo both"
    assert app("--profile", "debug", "exec", "-T", "debug", "sh", "-c", both) == "key = value\nboth"


def test_stop_start_restart_kill(app: App) -> None:
    app("stop", "-t", "0", "web")
    assert app.status()["web-1"].startswith("exited/")
    app("start", "web")
    app("restart", "-t", "0", "api")
    app("pause", "db")
    assert app.status()["db-1"].startswith("paused/")
    app("unpause", "db")
    app("kill", "-s", "KILL", "cache")
    app("rm", "-f", "cache")
    assert "cache-1" not in app.status()
    app("up", "-d", "--wait")
    assert app.status() == UP
    assert app("run", "--rm", "-T", "migrate", "echo", "ran") == "ran"


def test_all_of_it_goes(engine: Engine, name: str, folder: Path) -> None:
    with started(engine, name[:40], folder) as app:
        app("down", "-v", "-t", "0")
        label = f"label=com.docker.compose.project={app.name}"
        for noun in (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q")):
            assert engine.out(*noun, "--filter", label) == ""


def test_a_service_that_never_becomes_healthy(engine: Engine, name: str, folder: Path) -> None:
    (folder / "broken.yaml").write_text(
        "services:\n  db: {healthcheck: {test: ['CMD', 'false'], interval: 200ms, retries: 1}}\n"
    )
    app = App(engine, name[:40], folder)
    files = ("-f", "compose.yaml", "-f", "broken.yaml")
    try:
        said = subprocess.run(
            ["docker", "compose", *files, "up", "-d", "--wait"],
            cwd=folder,
            env={**engine.environment(), "APP": app.name},
            capture_output=True,
            text=True,
            timeout=LONG_S,
        )
        assert said.returncode == 1
        assert f"container {app.name}-db-1 is unhealthy" in said.stderr
        assert app.status()["api-1"] == "created//0"
    finally:
        app("--profile", "debug", "down", "-v", "-t", "0", check=False)


# Survival


@pytest.mark.beyond
def test_it_outlives_the_daemon(folder: Path) -> None:
    with own_wharf() as wharf, started(wharf, "outlives", folder) as app:
        before = {name: app.container(name) for name in UP}
        wharf.kill()
        wharf.start()
        assert app.status() == UP
        app("up", "-d", "--wait")
        assert {name: app.container(name) for name in UP} == before
        assert app("exec", "-T", "web", "wget", "-qO-", "http://api:8000/conf") == "key = value"


@pytest.mark.beyond
def test_it_comes_back_after_a_reboot(folder: Path) -> None:
    """Nothing of it is left but what is on the disk; the same networks, volumes and containers."""
    with own_wharf() as wharf, started(wharf, "reboots", folder) as app:
        networks = {n: inspected(wharf, "network", f"reboots_{n}") for n in ("front", "back")}
        volume = inspected(wharf, "volume", "reboots_data")
        before = {name: app.container(name) for name in UP}
        wharf.kill()
        leftovers.remove(wharf.root, wharf.instance)
        shutil.rmtree(wharf.exec_root)
        wharf.start()
        assert {state.partition("/")[0] for state in app.status().values()} == {"exited"}
        for name, was in networks.items():
            assert inspected(wharf, "network", f"reboots_{name}") == was
        assert inspected(wharf, "volume", "reboots_data") == volume
        app("up", "-d", "--wait")
        assert app.status() == UP
        assert {name: app.container(name) for name in UP} == before
        assert app("exec", "-T", "db", "cat", "/data/migrated") == "secret"


def inspected(engine: Engine, noun: str, name: str) -> dict[str, object]:
    """What does not depend on who stands there now."""
    kind = {"network": "networks", "volume": "volumes"}[noun]
    document: dict[str, object] = engine.call("GET", f"/{kind}/{name}").json()
    return {key: value for key, value in document.items() if key != "Containers"}
