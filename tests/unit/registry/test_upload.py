"""Blobs into a registry that mounts, refuses, breaks off, and sends us elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from engine.errors import EngineError, WharfError
from engine.oci import digest as digests
from engine.oci import reference
from engine.registry import upload
from engine.registry.auth import RegistryAuth
from engine.registry.failure import Unreachable
from engine.registry.mirror import Endpoint
from engine.registry.retry import Policy, patiently
from engine.registry.transport import Origin, Timeouts, Transport
from tests.support.registry import Answer, Bearer, HangUp, Registry
from tests.unit.registry.conftest import client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from engine.registry.client import Client, Repository

DATA = b"some bytes" * 100_000
DIGEST = digests.of(DATA)
QUICK = Policy(unit_s=0.0)
AUTH = RegistryAuth(username="user", password="pass")


@asynccontextmanager
async def opened(
    registry: Registry, auth: RegistryAuth | None = None
) -> AsyncGenerator[Repository]:
    async with client() as found:
        endpoint = Endpoint(url=registry.url, is_secure=False)
        yield await found.open(endpoint, "a/b", auth, actions=("push", "pull"))


def run(
    registry: Registry,
    work: Callable[[Repository], Awaitable[None]],
    auth: RegistryAuth | None = None,
) -> None:
    async def main() -> None:
        async with opened(registry, auth) as repository:
            await work(repository)

    asyncio.run(main())


async def pieces(data: bytes = DATA) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 70_000):
        yield data[start : start + 70_000]


async def send(repository: Repository) -> None:
    session = await upload.begin(repository)
    assert session is not None
    await session.send(pieces())
    await session.commit(DIGEST)


def test_a_blob_is_sent_as_it_comes(registry: Registry) -> None:
    async def work(repository: Repository) -> None:
        assert await upload.size_of(repository, DIGEST) is None
        await send(repository)
        assert await upload.size_of(repository, DIGEST) == len(DATA)

    run(registry, work)
    assert registry.blobs[DIGEST] == DATA


def test_a_small_blob_is_sent_once_and_whole(registry: Registry) -> None:
    async def work(repository: Repository) -> None:
        await upload.put(repository, b"{}")
        await upload.put(repository, b"{}")

    run(registry, work)
    assert registry.blobs[digests.of(b"{}")] == b"{}"
    assert registry.seen("PATCH", "") == 0
    assert registry.seen("POST", "/blobs/uploads/") == 1


def test_a_neighbours_blob_is_mounted(registry: Registry) -> None:
    registry.add_blob("c/d", DATA)

    async def work(repository: Repository) -> None:
        mount = upload.Mount(digest=DIGEST, repository="c/d")
        assert await upload.begin(repository, mount) is None
        assert await upload.size_of(repository, DIGEST) == len(DATA)

    run(registry, work)


def test_a_mount_that_is_refused_leaves_a_session(registry: Registry) -> None:
    async def work(repository: Repository) -> None:
        session = await upload.begin(repository, upload.Mount(digest=DIGEST, repository="c/d"))
        assert session is not None
        await session.cancel()

    run(registry, work)
    assert registry.seen("DELETE", "/blobs/uploads/") == 1


def test_a_mount_asks_for_both_scopes_and_the_rest_for_one(registry: Registry) -> None:
    registry.auth = Bearer()
    granted: list[frozenset[str]] = []

    async def work(repository: Repository) -> None:
        await send(repository)
        session = await upload.begin(repository, upload.Mount(digest=DIGEST, repository="c/d"))
        assert session is not None
        await session.cancel()
        granted.extend(registry._tokens.values())

    run(registry, work, AUTH)
    own = {"repository:a/b:push", "repository:a/b:pull"}
    assert granted == [own, own | {"repository:c/d:pull"}]
    assert registry.seen("GET", "/token") == 2


@pytest.mark.parametrize(
    "fault", [Answer(500), Answer(503), Answer(429, code="TOOMANYREQUESTS"), HangUp()]
)
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_what_fails_is_tried_again(registry: Registry, method: str, fault: Answer) -> None:
    registry.fault(method, "/blobs/uploads/", fault, times=2)
    told: list[str] = []

    async def work(repository: Repository) -> None:
        await patiently(
            lambda: send(repository),
            policy=QUICK,
            report=lambda status, current, total: told.append(status),
        )

    run(registry, work)
    assert registry.blobs[DIGEST] == DATA
    assert told[:2] == ["Retrying in 5 seconds", "Retrying in 4 seconds"]
    if (method, fault) != ("PUT", HangUp()):  # asked again at once on another connection
        assert told[4:6] == ["Retrying in 1 second", "Retrying in 10 seconds"]
        assert len(told) == 15


@pytest.mark.parametrize("code", ["DENIED", "UNAUTHORIZED", "UNSUPPORTED"])
def test_what_is_refused_is_not_tried_again(registry: Registry, code: str) -> None:
    registry.fault("POST", "/blobs/uploads/", Answer(403, code=code, message="no"))

    async def work(repository: Repository) -> None:
        with pytest.raises(WharfError, match=f"{code.lower()}: no"):
            await patiently(lambda: send(repository), policy=QUICK, report=lambda *_: None)

    run(registry, work)
    assert registry.seen("POST", "/blobs/uploads/") == 1


def test_five_attempts_and_no_more(registry: Registry) -> None:
    registry.fault("PATCH", "/blobs/uploads/", Answer(500))

    async def work(repository: Repository) -> None:
        with pytest.raises(EngineError, match="received unexpected HTTP status: 500"):
            await patiently(lambda: send(repository), policy=QUICK, report=lambda *_: None)

    run(registry, work)
    assert registry.seen("PATCH", "/blobs/uploads/") == 5


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/v2/a/b/blobs/uploads/x?_state=a%3D%3D&b=%2F", "/v2/a/b/blobs/uploads/x"),
        ("x?_state=a%3D%3D&b=%2F", "/v2/a/b/blobs/uploads/x"),
        ("//{host}/v2/a/b/blobs/uploads/x?_state=a%3D%3D&b=%2F", "/v2/a/b/blobs/uploads/x"),
    ],
)
def test_a_session_goes_on_where_the_registry_says(
    registry: Registry, location: str, path: str
) -> None:
    headers = {"Location": location.format(host=registry.host)}
    registry.fault("POST", "/blobs/uploads/", Answer(202, headers=headers, body=b""))
    registry.fault("PATCH", "/blobs/uploads/x", Answer(202, body=b""))
    registry.fault("PUT", "/blobs/uploads/x", Answer(201, body=b""))
    run(registry, send)
    patch, put = registry.requests[-2:]
    assert (patch.path, dict(patch.query)) == (path, {"_state": "a==", "b": "/"})
    assert (put.path, dict(put.query)) == (path, {"_state": "a==", "b": "/", "digest": DIGEST})


def test_a_session_elsewhere_gets_the_bytes_and_no_credentials(registry: Registry) -> None:
    registry.auth = Bearer()
    with Registry() as other:
        location = f"{other.url}/v2/x/blobs/uploads/1"
        headers = {"Location": location}
        registry.fault("POST", "/blobs/uploads/", Answer(202, headers=headers, body=b""))
        other.fault("PATCH", "", Answer(202, headers=headers, body=b""))
        other.fault("PUT", "", Answer(201, body=b""))
        run(registry, send, AUTH)
        assert [seen.method for seen in other.requests] == ["PATCH", "PUT"]
        assert not any(seen.authorization for seen in other.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_a_redirect_of_an_upload_elsewhere_is_not_followed(
    registry: Registry, method: str, status: int
) -> None:
    with Registry() as other:
        headers = {"Location": f"{other.url}/v2/x/blobs/uploads/1"}
        registry.fault(method, "/blobs/uploads/", Answer(status, headers=headers, body=b""))

        async def work(repository: Repository) -> None:
            with pytest.raises(EngineError, match=f"unexpected HTTP status: {status}"):
                await send(repository)

        run(registry, work)
        assert other.requests == []


def test_a_forgotten_session_is_told_as_dockerd_does(registry: Registry) -> None:
    registry.fault("PATCH", "/blobs/uploads/", Answer(404, code="BLOB_UPLOAD_UNKNOWN"))

    async def work(repository: Repository) -> None:
        with pytest.raises(upload.UnknownUpload, match=r"^blob upload unknown$"):
            await send(repository)

    run(registry, work)


def test_what_goes_wrong_while_a_body_is_made_is_raised_as_it_is(registry: Registry) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DATA
        raise OSError(5, "Input/output error", "/layer/file")

    async def work(repository: Repository) -> None:
        session = await upload.begin(repository)
        assert session is not None
        with pytest.raises(OSError, match="/layer/file"):
            await session.send(broken())

    run(registry, work)


def test_who_takes_no_more_bytes_is_given_up(registry: Registry) -> None:
    """A body has no end of its own time, but each piece of it has."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    async def main() -> None:
        taken: list[asyncio.StreamWriter] = []

        async def take_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            taken.append(writer)

        server = await asyncio.start_server(take_nothing, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        transport = Transport(certs_dir="/nonexistent")
        origin = Origin(endpoint=Endpoint(url=url, is_secure=False))
        timeouts = Timeouts(total_s=None, idle_s=0.3)
        request = transport.request(origin, "PATCH", url, body=endless(), timeouts=timeouts)
        with pytest.raises(Unreachable, match="deadline exceeded"):
            async with request:
                pass
        for writer in taken:
            writer.transport.abort()
        await transport.close()
        server.close()
        await asyncio.sleep(0.05)

    asyncio.run(main())


def test_a_manifest_is_put_with_its_bytes_and_type(registry: Registry) -> None:
    async def main() -> None:
        async with client() as found:
            await attempt(found)

    async def attempt(found: Client) -> None:
        ref = reference.parse(f"{registry.host}/a/b:1")

        async def work(repository: Repository) -> None:
            await repository.put_manifest("1", "application/x", b"{ }\n")

        await found.attempt(ref, None, work, actions=("push", "pull"))

    asyncio.run(main())
    assert registry.manifest("a/b", "1") == b"{ }\n"
    (put,) = [seen for seen in registry.requests if seen.method == "PUT"]
    assert put.headers["Content-Type"] == "application/x"
