"""The API as served: paths, headers, versions, errors, streams; the engine behind it is a fake."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from engine.container import model
from engine.errors import (
    Conflict,
    EngineError,
    Forbidden,
    InvalidParameter,
    NotFound,
    NotImplementedHere,
    NotModified,
    Unauthorized,
    Unavailable,
)
from engine.image.model import Progress
from tests.contract import fake_engine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    Talk = Callable[[aiohttp.ClientSession], Awaitable[None]]

BODIES = Path(__file__).parent / "bodies"


def talk(tmp_path: Path, conversation: Talk, fake: Any = None, **config: Any) -> None:
    async def run() -> None:
        path = str(tmp_path / "api.sock")
        async with fake_engine.serving(fake or fake_engine.engine(), path, **config):
            connector = aiohttp.UnixConnector(path)
            async with aiohttp.ClientSession(
                "http://d", connector=connector, skip_auto_headers=["Content-Type"]
            ) as session:
                async with asyncio.timeout(20):
                    await conversation(session)

    asyncio.run(run())


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, **more: Any
) -> tuple[int, Any]:
    async with session.request(method, path, allow_redirects=False, **more) as response:
        text = await response.text()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.51"])
def test_ping_has_dockerds_headers(tmp_path: Path, method: str, prefix: str) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        async with session.request(method, f"{prefix}/_ping") as response:
            assert await response.text() == ("OK" if method == "GET" else "")
            assert response.headers["Content-Length"] == ("2" if method == "GET" else "0")
            expected = {
                "Api-Version": "1.51",
                "Builder-Version": "2",
                "Cache-Control": "no-cache, no-store, must-revalidate",
                "Content-Type": "text/plain; charset=utf-8",
                "Docker-Experimental": "true",
                "Ostype": "linux",
                "Pragma": "no-cache",
                "Swarm": "inactive",
            }
            assert {k: response.headers[k] for k in expected} == expected
            assert response.headers["Server"].startswith("Docker/28.5.2+wharf")

    talk(tmp_path, conversation, experimental=True)


@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("GET", "/nope", 404, {"message": "page not found"}),
        ("DELETE", "/_ping", 404, {"message": "page not found"}),
        ("GET", "/v1.99/nope", 404, {"message": "page not found"}),
        ("GET", "/v1.5a/version", 404, {"message": "page not found"}),
        ("GET", "/version/", 404, {"message": "page not found"}),
        ("POST", "/grpc", 404, {"message": "page not found"}),
        ("POST", "/session", 404, {"message": "page not found"}),
        ("OPTIONS", "/anything", 200, ""),
        ("GET", "/containers/json?a;b", 400, {"message": "invalid semicolon separator in query"}),
        ("GET", "/_ping?a;b", 200, "OK"),
        ("GET", "/plugins", 200, []),
        (
            "GET",
            "/v1.99/version",
            400,
            {"message": "client version 1.99 is too new. Maximum supported API version is 1.51"},
        ),
        (
            "GET",
            "/v1.12/version",
            400,
            "client version 1.12 is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version\n",
        ),
        (
            "GET",
            "/swarm",
            503,
            {
                "message": 'This node is not a swarm manager. Use "docker swarm init" or '
                '"docker swarm join" to connect this node to swarm and try again.'
            },
        ),
        ("GET", "/containers/nope/json", 404, {"message": "No such container: nope"}),
        ("GET", "/containers/a/b/json", 404, {"message": "No such container: a/b"}),
        (
            "POST",
            "/containers/nope/kill",
            404,
            {"message": "cannot kill container: nope: No such container: nope"},
        ),
        ("GET", "/containers/nope/stats", 404, {"message": "No such container: nope"}),
        (
            "GET",
            "/containers/web/stats",
            501,
            {"message": "stats is not supported by this engine yet"},
        ),
        (
            "GET",
            "/containers/web/logs",
            400,
            {"message": "Bad parameters: you must choose at least one stream"},
        ),
        (
            "POST",
            "/containers/web/wait?condition=foo",
            400,
            {"message": 'invalid condition: "foo"'},
        ),
        (
            "POST",
            "/containers/web/resize?h=a&w=1",
            400,
            {"message": 'invalid resize height "a": invalid syntax'},
        ),
        ("POST", "/containers/web/exec", 400, {"message": "No exec command specified"}),
        ("GET", "/containers/json?filters=abc", 400, {"message": "invalid filter"}),
        ("GET", "/system/df?type=foo", 400, {"message": "unknown object type: foo"}),
        (
            "GET",
            "/events?since=9&until=5",
            400,
            {"message": "`since` time (9) cannot be after `until` time (5)"},
        ),
        ("DELETE", "/images/", 400, {"message": "image name cannot be blank"}),
        (
            "POST",
            "/containers/create",
            400,
            {"message": "invalid JSON: got EOF while reading request body"},
        ),
        ("GET", "/containers/a%0ab/json", 404, {"message": "page not found"}),
        ("GET", "/v1.51/a%0ab", 404, {"message": "page not found"}),
    ],
)
def test_answers(tmp_path: Path, method: str, path: str, status: int, answer: Any) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        assert await ask(session, method, path) == (status, answer)

    talk(tmp_path, conversation)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        ("", "malformed Content-Type header (): mime: no media type"),
        ("a;b=", "malformed Content-Type header (a;b=): mime: invalid media parameter"),
    ],
)
def test_a_document_has_to_say_that_it_is_one(tmp_path: Path, header: str, sentence: str) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        headers = {"Content-Type": header}
        found = await ask(session, "POST", "/containers/create", data=b"{}", headers=headers)
        assert found == (400, {"message": sentence})

    talk(tmp_path, conversation)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (InvalidParameter, 400),
        (Unauthorized, 401),
        (Forbidden, 403),
        (NotFound, 404),
        (Conflict, 409),
        (NotImplementedHere, 501),
        (Unavailable, 503),
        (EngineError, 500),
    ],
)
def test_each_kind_of_failure_has_its_status(
    tmp_path: Path, kind: type[Exception], status: int
) -> None:
    fake = fake_engine.engine()

    async def pause(ref: str) -> None:
        raise kind("because of \udc80")

    fake.containers.pause = pause

    async def conversation(session: aiohttp.ClientSession) -> None:
        found = await ask(session, "POST", "/containers/web/pause")
        assert found == (status, {"message": "because of ?"})

    talk(tmp_path, conversation, fake)


def test_nothing_to_do_has_no_body(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def start(ref: str) -> None:
        raise NotModified("already running")

    fake.containers.start = start

    async def conversation(session: aiohttp.ClientSession) -> None:
        assert await ask(session, "POST", "/containers/web/start") == (304, "")

    talk(tmp_path, conversation, fake)


def test_a_failure_of_ours_says_no_more_than_its_kind(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def pause(ref: str) -> None:
        raise ZeroDivisionError("secret")

    fake.containers.pause = pause

    async def conversation(session: aiohttp.ClientSession) -> None:
        found = await ask(session, "POST", "/containers/web/pause")
        assert found == (500, {"message": "internal error: ZeroDivisionError"})

    talk(tmp_path, conversation, fake)


def test_a_body_that_fails_on_its_way_is_cut_off(tmp_path: Path) -> None:
    """An answer about it would be taken for a part of it, and its end for the whole."""
    fake = fake_engine.engine()

    async def save(names: object, *, platform: object) -> AsyncGenerator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    fake.images = SimpleNamespace(save=save)

    async def conversation(session: aiohttp.ClientSession) -> None:
        async with session.get("/images/get?names=a") as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError, match="not completed"):
                await response.read()

    talk(tmp_path, conversation, fake)


def test_progress_that_fails_on_its_way_says_so(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def push(ref: object, **_: object) -> AsyncGenerator[Progress]:
        yield Progress(status="begun")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")

    fake.images = SimpleNamespace(push=push)

    async def conversation(session: aiohttp.ClientSession) -> None:
        async with session.post("/images/a/push?tag=1") as response:
            first, last = (await response.read()).splitlines()
        said = "/data/x: no space left on device"
        assert json.loads(first) == {"status": "begun"}
        assert json.loads(last) == {"errorDetail": {"message": said}, "error": said}

    talk(tmp_path, conversation, fake)


def test_the_stock_clients_create(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(session: aiohttp.ClientSession) -> None:
        found = await ask(
            session,
            "POST",
            "/v1.51/containers/create?name=n1",
            data=(BODIES / "cli-28-create-bare.json").read_bytes(),
            headers={"Content-Type": "application/json"},
        )
        assert found == (201, {"Id": fake_engine.ID, "Warnings": []})
        ((_, request),) = fake.containers.asked
        assert request.name == "n1"
        assert request.config.image == "busybox"

    talk(tmp_path, conversation, fake)


def test_a_form_counts_as_a_query(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(session: aiohttp.ClientSession) -> None:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        found = await ask(
            session, "POST", "/containers/web/stop", data=b"t=5&signal=INT", headers=form
        )
        assert found == (204, "")
        assert fake.containers.asked == [("stop", "web", "INT", 5)]

    talk(tmp_path, conversation, fake)


def test_a_stop_signal_came_with_1_42(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(session: aiohttp.ClientSession) -> None:
        await ask(session, "POST", "/v1.41/containers/web/stop?signal=INT&t=-1")
        await ask(session, "POST", "/v1.42/containers/web/stop?signal=INT")
        assert fake.containers.asked == [("stop", "web", None, -1), ("stop", "web", "INT", None)]

    talk(tmp_path, conversation, fake)


def test_a_start_takes_no_body(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        status, answer = await ask(session, "POST", "/containers/web/start", data=b'{"Binds":[]}')
        assert status == 400
        assert answer["message"].startswith("starting container with non-empty request body")
        assert await ask(session, "POST", "/containers/web/start", data=b"{}") == (204, "")

    talk(tmp_path, conversation)


def test_wait_answers_its_head_at_once(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(session: aiohttp.ClientSession) -> None:
        async with session.post("/containers/web/wait?condition=removed") as response:
            assert response.status == 200
            assert fake.containers.asked == [("wait", model.WaitCondition.REMOVED)]
            fake.containers.outcome.set_result(model.WaitResult(exit_code=3))
            assert await response.json() == {"StatusCode": 3}

    talk(tmp_path, conversation, fake)


def test_logs_are_framed_unless_of_a_terminal(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(session: aiohttp.ClientSession) -> None:
        url = "/containers/web/logs?stdout=1&stderr=1&tail=5"
        async with session.get(url) as response:
            assert response.content_type == "application/vnd.docker.multiplexed-stream"
            framed = b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n"
            assert await response.read() == framed
        tty = model.Config(image="a", tty=True)
        fake.containers.container = fake_engine.container(config=tty)
        async with session.get(url) as response:
            assert response.content_type == "application/vnd.docker.raw-stream"
            assert await response.read() == b"out\nerr\n"
        assert fake.containers.asked[0][1].tail == 5

    talk(tmp_path, conversation, fake)


def test_events_past_and_to_come(tmp_path: Path) -> None:
    fake = fake_engine.engine()
    bus = fake.events

    async def conversation(session: aiohttp.ClientSession) -> None:
        bus.publish("container", "create", "a", {"name": "one"})
        bus.publish("image", "create", "b")
        filters = json.dumps({"event": ["create", "start"]})
        params = {"since": "0", "filters": filters}
        async with session.get("/v1.45/events", params=params) as response:
            first = json.loads(await response.content.readline())
            assert (first["Action"], first["Actor"]["ID"]) == ("create", "a")
            bus.publish("container", "die", "a")
            bus.publish("container", "start", "a")
            assert json.loads(await response.content.readline())["Action"] == "start"
        while len(bus):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    talk(tmp_path, conversation, fake)


def test_events_of_the_past_alone_come_to_an_end(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(session: aiohttp.ClientSession) -> None:
        fake.events.publish("image", "create", "b")
        async with session.get("/events?since=0&until=4000000000") as response:
            await response.content.readline()
            response.close()
        assert await ask(session, "GET", "/events?since=1&until=2") == (200, "")

    talk(tmp_path, conversation, fake)


def test_an_update_tells_nothing_from_no_limit(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(session: aiohttp.ClientSession) -> None:
        path = "/containers/web/update"
        for pids, version in ((None, "1.51"), (0, "1.51"), (-1, "1.51"), (7, "1.51"), (7, "1.39")):
            body = json.dumps({"PidsLimit": pids}).encode()
            headers = {"Content-Type": "application/json"}
            await ask(session, "POST", f"/v{version}{path}", data=body, headers=headers)
        limits = [resources.pids_limit for _, resources, _ in fake.containers.asked]
        assert limits == [None, 0, 0, 7, None]
        assert await ask(session, "POST", path) == (200, {"Warnings": None})

    talk(tmp_path, conversation, fake)


def test_connecting_reads_the_network_from_the_path(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(session: aiohttp.ClientSession) -> None:
        body = json.dumps({"Container": "web", "EndpointConfig": {"Aliases": ["db"]}}).encode()
        headers = {"Content-Type": "application/json"}
        for verb in ("connect", "disconnect"):
            found = await ask(session, "POST", f"/networks/net/{verb}", data=body, headers=headers)
            assert found == (200, "")
        assert fake.containers.asked == [
            ("connect", "web", "net", model.EndpointConfig(aliases=("db",))),
            ("disconnect", "web", "net", False),
        ]

    talk(tmp_path, conversation, fake)


def test_many_hostile_bodies_leave_the_server_well(tmp_path: Path) -> None:
    """Each is a 400 with a message, never a 500."""
    bodies = [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b'{"Image":NaN}',
        b'{"Image":"\\ud800"}{',
        b"\xff\xfe",
        b"\0",
        b'{"Memory":[],"Image":[],"Cmd":{}}',
    ]

    async def conversation(session: aiohttp.ClientSession) -> None:
        headers = {"Content-Type": "application/json"}
        for body in bodies:
            for path in ("/containers/create", "/containers/web/update", "/containers/web/exec"):
                status, answer = await ask(session, "POST", path, data=body, headers=headers)
                assert status == 400, (path, body[:20])
                assert set(answer) == {"message"}
        assert (await ask(session, "GET", "/_ping"))[0] == 200

    talk(tmp_path, conversation)
