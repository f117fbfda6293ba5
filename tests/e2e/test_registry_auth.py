"""Registries that want to know who asks: login, pull, push, and what a wrong answer says."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import images
from tests.support.images import Image, Layer, file, tar
from tests.support.registry import Basic, Bearer, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.engine import Engine, Reply

pytestmark = pytest.mark.stock

USER = {"username": "user", "password": "pass"}
STRANGER = {"username": "user", "password": "wrong"}
TOKEN = {"identitytoken": "refresh-me"}
KINDS = {"basic": Basic(**USER), "bearer": Bearer(**USER)}
NO_CREDENTIALS = "no basic auth credentials"
WRONG = "unauthorized: incorrect username or password"
# What each kind of registry says, by way of dockerd, to whoever is not known.
REFUSAL = {
    ("basic", "nobody"): NO_CREDENTIALS,
    ("basic", "stranger"): "unauthorized: authentication required",
    ("bearer", "nobody"): WRONG,
    ("bearer", "stranger"): WRONG,
}


# Identity tokens are for token servers.
KNOWN = pytest.mark.parametrize(
    ("kind", "who"),
    [("basic", USER), ("bearer", USER), ("bearer", TOKEN)],
    ids=["basic", "bearer", "identity token"],
    indirect=["kind"],
)


@pytest.fixture(params=["basic", "bearer"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def registry(kind: str) -> Iterator[Registry]:
    with Registry(auth=KINDS[kind]) as found:
        yield found


@pytest.fixture
def image(engine: Engine, registry: Registry, name: str) -> Iterator[str]:
    """A reference that registry and engine both know, in repositories of their own."""
    made = Image((Layer(tar({"a": file(name.encode())})),))
    registry.add("there/a:1", made)
    ref = f"{registry.host}/mine/b:1"
    engine.docker("load", input=images.docker_archive({ref: made}))
    yield ref
    for left in (ref, f"{registry.host}/there/a:1"):
        engine.docker("rmi", "-f", left, check=False)


def header(who: dict[str, str]) -> dict[str, str]:
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(who).encode()).decode()}


def pull(engine: Engine, registry: Registry, headers: dict[str, str] | None = None) -> Reply:
    path = f"/v1.51/images/create?fromImage={registry.host}/there/a&tag=1"
    return engine.call("POST", path, headers=headers or {})


def push(engine: Engine, ref: str, who: dict[str, str]) -> list[dict[str, Any]]:
    name, _, tag = ref.rpartition(":")
    reply = engine.call("POST", f"/v1.51/images/{name}/push?tag={tag}", headers=header(who))
    assert reply.status == 200, reply.body
    return [json.loads(line) for line in reply.body.splitlines() if line]


def login(engine: Engine, registry: Registry, who: dict[str, str]) -> Reply:
    return engine.call("POST", "/v1.51/auth", {**who, "serveraddress": registry.host})


def test_login_push_pull_logout(
    engine: Engine, registry: Registry, image: str, tmp_path: Path
) -> None:
    config = ("--config", str(tmp_path))
    engine.docker("rmi", image)
    there = f"{registry.host}/there/a:1"
    # The client asks who it is; some versions wait for ever where their input has no line.
    refused = engine.docker(*config, "pull", there, input="\n", check=False)
    assert refused.returncode == 1
    args = ("login", "-u", "user", "--password-stdin", registry.host)
    assert "Login Succeeded" in engine.docker(*config, *args, input="pass").stdout.decode()
    pulled = engine.docker(*config, "pull", "-q", there).stdout.decode().strip()
    assert pulled == there
    engine.docker("tag", pulled, image)
    assert "1: digest: sha256:" in engine.docker(*config, "push", image).stdout.decode()
    assert set(registry.tags("mine/b")) == {"1"}
    engine.docker(*config, "logout", registry.host)
    assert engine.docker(*config, "push", image, check=False).returncode == 1


def test_login(engine: Engine, registry: Registry, kind: str) -> None:
    reply = login(engine, registry, USER)
    identity = TOKEN["identitytoken"] if kind == "bearer" else ""
    assert reply.status == 200
    assert reply.json() == {"Status": "Login Succeeded", "IdentityToken": identity}


@pytest.mark.parametrize(
    ("kind", "who"),
    [("basic", STRANGER), ("bearer", STRANGER), ("bearer", {"identitytoken": "stale"})],
    ids=["basic", "bearer", "identity token"],
    indirect=["kind"],
)
def test_login_refused(engine: Engine, registry: Registry, kind: str, who: dict[str, str]) -> None:
    reply = login(engine, registry, who)
    if kind == "basic":
        url = f"{registry.url}/v2/"
        sentence = f"login attempt to {url} failed with status: 401 Unauthorized"
        assert (reply.status, reply.message) == (500, sentence)
    else:
        assert reply.status == 401
        assert "unauthorized: " in reply.message


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_a_pull_is_refused(engine: Engine, registry: Registry, kind: str, who: str) -> None:
    reply = pull(engine, registry, header(STRANGER) if who == "stranger" else None)
    assert reply.status == (500 if REFUSAL[kind, who] == NO_CREDENTIALS else 401)
    # The registry's answer to a HEAD has no body.
    sentence = REFUSAL[kind, who].removesuffix(": authentication required")
    assert sentence in reply.message


@KNOWN
def test_a_pull(engine: Engine, registry: Registry, image: str, who: dict[str, str]) -> None:
    engine.docker("rmi", image)
    reply = pull(engine, registry, header(who))
    assert b"Downloaded newer image" in reply.body, reply.body


@pytest.mark.parametrize("text", ["!!!", "bm9wZQ==", "e30=", ""])
def test_a_header_that_says_nothing_is_nobody(
    engine: Engine, registry: Registry, kind: str, text: str
) -> None:
    reply = pull(engine, registry, {"X-Registry-Auth": text})
    assert REFUSAL[kind, "nobody"] in reply.message


def test_a_token_is_for_a_registry_that_takes_tokens(engine: Engine, registry: Registry) -> None:
    reply = pull(engine, registry, header({"registrytoken": "made up"}))
    assert (reply.status, reply.message) == (401, "unauthorized")


# dockerd asks five times, for half a minute, where basic credentials are wrong.
@pytest.mark.parametrize(
    ("kind", "who"),
    [("basic", "nobody"), ("bearer", "nobody"), ("bearer", "stranger")],
    indirect=["kind"],
)
def test_a_push_is_refused(
    engine: Engine, registry: Registry, kind: str, image: str, who: str
) -> None:
    lines = push(engine, image, STRANGER if who == "stranger" else {})
    sentence = REFUSAL[kind, who]
    assert lines[-1] == {"errorDetail": {"message": sentence}, "error": sentence}
    assert not registry.tags("mine/b")


@KNOWN
def test_a_push(engine: Engine, registry: Registry, image: str, who: dict[str, str]) -> None:
    lines = push(engine, image, who)
    assert lines[-1]["aux"]["Tag"] == "1"
    assert registry.tags("mine/b")["1"] == lines[-1]["aux"]["Digest"]
