"""Against a registry in this process: what is asked, what is believed, what is refused."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from typing import TYPE_CHECKING

import pytest

from engine import errors
from engine.oci import reference
from engine.oci.image import Index, Manifest
from engine.registry import failure, gohttp, retry
from engine.registry.auth import RegistryAuth
from engine.registry.client import MalformedManifest, Repository
from engine.registry.failure import Stray, Unreachable, VerificationFailed
from tests.support import images
from tests.support.registry import (
    Answer,
    Basic,
    Bearer,
    Corrupt,
    Fault,
    HangUp,
    Registry,
    Replace,
    Truncate,
)
from tests.unit.registry.conftest import client

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.oci.digest import Digest
    from engine.registry.client import Resolved

SMALL = images.Image((images.Layer(images.tar({"a": images.file(b"1")})),), {"Cmd": ["/a"]})


def resolve(
    name: str,
    *,
    auth: RegistryAuth | None = None,
    known: bytes | None = None,
    mirrors: Sequence[str] = (),
) -> Resolved:
    ref = reference.parse(name)

    async def known_bytes(_digest: Digest) -> bytes | None:
        return known

    async def work(repository: Repository) -> Resolved:
        return await repository.resolve(ref, known=known_bytes if known else None)

    async def run() -> Resolved:
        async with client(mirrors=mirrors) as found:
            return await found.attempt(ref, auth, work)

    return asyncio.run(run())


def tags(name: str) -> list[str]:
    ref = reference.parse(name)

    async def run() -> list[str]:
        async with client() as found:
            return await found.attempt(ref, None, Repository.tags)

    return asyncio.run(run())


def login(auth: RegistryAuth) -> str:
    async def run() -> str:
        async with client() as found:
            return await found.login(auth)

    return asyncio.run(run())


# Names


def test_a_tag_is_resolved(registry: Registry) -> None:
    digest = registry.add("a/b:1", SMALL)
    found = resolve(f"{registry.host}/a/b:1")
    assert found.descriptor.digest == digest
    assert found.data == SMALL.manifest
    assert isinstance(found.document, Manifest)
    assert found.document.config.digest == SMALL.id


def test_an_index_is_resolved_by_digest(registry: Registry) -> None:
    digest = registry.add("a/b:1", images.Index((SMALL,)))
    found = resolve(f"{registry.host}/a/b@{digest}")
    assert isinstance(found.document, Index)
    assert registry.seen("HEAD", "/manifests/") == 0


def test_what_is_known_costs_one_head(registry: Registry) -> None:
    registry.add("a/b:1", SMALL)
    found = resolve(f"{registry.host}/a/b:1", known=SMALL.manifest)
    assert found.data == SMALL.manifest
    assert registry.seen("GET", "/manifests/") == 0


def test_a_registry_without_head_is_asked_with_get(registry: Registry) -> None:
    registry.add("a/b:1", SMALL)
    registry.fault("HEAD", "/manifests/", Answer(405))
    assert resolve(f"{registry.host}/a/b:1").data == SMALL.manifest


@pytest.mark.parametrize(
    ("name", "status"),
    [("a/b:nosuch", 404), ("a/nosuch:1", 404)],
)
def test_what_is_not_there_is_not_found(registry: Registry, name: str, status: int) -> None:
    registry.add("a/b:1", SMALL)
    with pytest.raises(errors.NotFound) as caught:
        resolve(f"{registry.host}/{name}")
    assert str(caught.value) == "manifest unknown: manifest unknown"


def test_too_many_requests(registry: Registry) -> None:
    fault = Answer(429, code="TOOMANYREQUESTS", message="you have reached your limit")
    registry.fault("HEAD", "/manifests/", fault)
    registry.fault("GET", "/manifests/", fault)
    with pytest.raises(errors.TooManyRequests, match=r"^toomanyrequests: you have reached"):
        resolve(f"{registry.host}/a/b:1")


# A registry that is busy


@pytest.mark.parametrize(
    "fault",
    [
        Answer(429, code="TOOMANYREQUESTS"),
        Answer(503),
        Answer(502, body=b"<html>"),
        HangUp(),
        Truncate(at=20),
    ],
)
def test_a_busy_registry_is_asked_again(registry: Registry, fault: Fault) -> None:
    """Beyond Docker, which asks once."""
    digest = registry.add("a/b:1", SMALL)
    registry.fault("GET", "/manifests/", fault, times=2)
    assert resolve(f"{registry.host}/a/b@{digest}").data == SMALL.manifest
    assert registry.seen("GET", "/manifests/") == 3
    registry.fault("GET", "/tags/", fault, times=3)
    assert tags(f"{registry.host}/a/b") == ["1"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Answer(429, headers={"Retry-After": "3600"}, code="TOOMANYREQUESTS"), "toomanyrequests"),
        (Answer(503, headers={"Retry-After": "3600"}), "503"),
        (Answer(404, code="MANIFEST_UNKNOWN"), "manifest unknown"),
        (Answer(403, code="DENIED"), "denied"),
    ],
)
def test_what_will_not_pass_soon_is_told_at_once(
    registry: Registry, fault: Fault, sentence: str
) -> None:
    registry.fault("GET", "/manifests/", fault)
    with pytest.raises(errors.WharfError, match=sentence):
        resolve(f"{registry.host}/a/b@{SMALL.digest}")
    assert registry.seen("GET", "/manifests/") == 1


@pytest.mark.parametrize("fault", [Answer(503), Answer(429), HangUp()])
def test_a_busy_registry_is_asked_again_who_may_come_in(fault: Fault) -> None:
    with Registry(auth=Bearer(anonymous_pull=True)) as asking:
        asking.add("a/b:1", SMALL)
        asking.fault("GET", "^/v2/$", fault, times=1)
        asking.fault("GET", "/token", Answer(429, code="OTHER"), times=1)
        assert resolve(f"{asking.host}/a/b:1").data == SMALL.manifest


def test_nobody_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BRIEF_DELAYS_S", (60.0,))
    with pytest.raises(Unreachable, match="connection refused"):
        resolve("127.0.0.1:1/a/b:1")


def test_a_busy_mirror_is_not_waited_for(registry: Registry) -> None:
    registry.add("library/busybox:1", SMALL)
    with Registry() as busy:
        busy.fault("HEAD", "/manifests/", Answer(503))
        busy.fault("GET", "/manifests/", Answer(503))
        assert resolve("busybox:1", mirrors=(busy.url, registry.url)).data == SMALL.manifest
        assert busy.seen("GET", "/manifests/") == 1


# Believing nobody


def test_wrong_bytes_are_refused(registry: Registry) -> None:
    registry.add("a/b:1", SMALL)
    registry.fault("GET", "/manifests/", Corrupt())
    with pytest.raises(VerificationFailed, match=f"digest {SMALL.digest}$"):
        resolve(f"{registry.host}/a/b:1")


def test_another_manifest_under_a_digest_is_refused(registry: Registry) -> None:
    registry.add("a/b:1", SMALL)
    registry.fault("GET", "/manifests/", Replace(body=images.hello_world().manifest))
    with pytest.raises(VerificationFailed):
        resolve(f"{registry.host}/a/b@{SMALL.digest}")


@pytest.mark.parametrize("size", [5 << 20, 100 << 20])
def test_a_huge_manifest_is_refused(registry: Registry, size: int) -> None:
    registry.add_manifest("a/b:1", SMALL.media_type, b" " * size)
    with pytest.raises(errors.InvalidParameter, match=r"exceeds the limit of 4194304 bytes$"):
        resolve(f"{registry.host}/a/b:1")


@pytest.mark.parametrize(
    "change",
    [
        {"manifests": []},
        {"mediaType": "application/vnd.oci.image.index.v1+json"},
        {"config": None, "layers": None, "mediaType": "application/x-strange"},
        {"layers": 5},
    ],
)
def test_an_ambiguous_manifest_is_refused(registry: Registry, change: dict[str, object]) -> None:
    document = json.loads(SMALL.manifest) | change
    registry.add_manifest("a/b:1", SMALL.media_type, json.dumps(document).encode())
    with pytest.raises(MalformedManifest):
        resolve(f"{registry.host}/a/b:1")


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b'{"layers":' * 50_000, b"\xff"])
def test_no_json_is_a_traceback(registry: Registry, data: bytes) -> None:
    registry.add_manifest("a/b:1", SMALL.media_type, data)
    with pytest.raises(MalformedManifest):
        resolve(f"{registry.host}/a/b:1")


def test_a_manifest_that_nothing_says_the_kind_of(registry: Registry) -> None:
    class Silent(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            if self.path != "/v2/":
                self.send_header("Docker-Content-Digest", SMALL.digest)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(errors.EngineError, match="missing or empty Content-Type header"):
                resolve(f"127.0.0.1:{server.server_port}/a/b:1")
        finally:
            server.shutdown()
            thread.join()


def test_schema_1_that_nobody_signed(registry: Registry) -> None:
    kind = "application/vnd.docker.distribution.manifest.v1+json"
    registry.add_manifest("a/b:1", kind, b'{"schemaVersion":1,"fsLayers":[]}')
    with pytest.raises(MalformedManifest, match="missing signature key"):
        resolve(f"{registry.host}/a/b:1")


def test_schema_1_is_gone(registry: Registry) -> None:
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    signed = b'{"schemaVersion":1,"fsLayers":[],"signatures":[{}]}'
    registry.add_manifest("a/b:1", kind, signed)
    with pytest.raises(errors.InvalidParameter, match="schema 1 support has been removed"):
        resolve(f"{registry.host}/a/b:1")


# Lists of tags


def test_all_tags(registry: Registry) -> None:
    for number in range(5):
        registry.add(f"a/b:{number}", SMALL)
    assert tags(f"{registry.host}/a/b") == ["0", "1", "2", "3", "4"]


def test_pages_of_tags_are_followed(registry: Registry) -> None:
    registry.fault(
        "GET",
        "/tags/list",
        Answer(
            200,
            headers={"Link": '</v2/a/b/tags/list?last=1&n=1>; rel="next"'},
            body=b'{"tags":["0"]}',
        ),
        times=1,
    )
    registry.add("a/b:2", SMALL)
    assert tags(f"{registry.host}/a/b") == ["0", "2"]


def test_an_endless_list_of_tags_ends(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.registry.client.MOST_TAG_PAGES", 20)
    more = {"Link": '</v2/a/b/tags/list?n=1>; rel="next"'}
    registry.fault("GET", "/tags/list", Answer(200, headers=more, body=b'{"tags":["0"]}'))
    with pytest.raises(errors.EngineError, match=r"has no end$"):
        tags(f"{registry.host}/a/b")
    assert registry.seen("GET", "/tags/list") == 20


def test_a_repository_that_is_not_there_has_no_tags(registry: Registry) -> None:
    with pytest.raises(failure.Refusal) as caught:
        tags(f"{registry.host}/a/nosuch")
    assert str(caught.value) == "name unknown: repository name not known to registry"


# Endpoints


def test_nobody_answers() -> None:
    with pytest.raises(Unreachable) as caught:
        resolve("127.0.0.1:1/a/b:1")
    assert str(caught.value) == (
        'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
    )


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("# search\n nameserver 192.0.2.53\nnameserver ::1\n")
    monkeypatch.setattr(gohttp, "RESOLV_CONF", str(resolv_conf))
    with pytest.raises(Unreachable) as caught:
        resolve("nosuch.invalid/a/b:1")
    assert str(caught.value) == (
        'Get "https://nosuch.invalid/v2/": dial tcp: '
        "lookup nosuch.invalid on 192.0.2.53:53: no such host"
    )


def test_a_registry_that_hangs_up(registry: Registry) -> None:
    registry.fault("GET", "/v2/$", HangUp())
    with pytest.raises(Unreachable) as caught:
        resolve(f"{registry.host}/a/b:1")
    assert str(caught.value) == f'Get "http://{registry.host}/v2/": EOF'


def test_a_mirror_serves_the_hub(registry: Registry) -> None:
    registry.add("library/busybox:1", SMALL)
    assert resolve("busybox:1", mirrors=(registry.url,)).data == SMALL.manifest


def test_the_next_mirror_serves_what_the_first_does_not(registry: Registry) -> None:
    registry.add("library/busybox:1", SMALL)
    with Registry() as empty:
        mirrors = ("http://127.0.0.1:1", empty.url, registry.url)
        assert resolve("busybox:1", mirrors=mirrors).data == SMALL.manifest
        assert empty.seen("HEAD", "/manifests/1") == 1


def test_a_mirror_gets_no_credentials() -> None:
    with Registry(auth=Basic(username="u", password="p")) as asking:
        with pytest.raises(errors.WharfError):
            resolve(
                "busybox:1",
                mirrors=(asking.url,),
                auth=RegistryAuth(username="u", password="p"),
            )
        assert [s.authorization for s in asking.requests] == [""]


# Redirects


def test_a_redirect_is_followed_without_credentials() -> None:
    with Registry() as elsewhere, Registry(auth=Basic(username="u", password="p")) as home:
        elsewhere.add("a/b:1", SMALL)
        moved = Answer(307, headers={"Location": f"{elsewhere.url}/v2/a/b/manifests/1"})
        home.fault("GET", "/manifests/", moved)
        home.fault("HEAD", "/manifests/", moved)
        auth = RegistryAuth(username="u", password="p")
        assert resolve(f"{home.host}/a/b:1", auth=auth).data == SMALL.manifest
        assert {s.authorization for s in elsewhere.requests} == {""}
        assert any(s.authorization for s in home.requests)


def test_an_endless_redirect_ends(registry: Registry) -> None:
    registry.fault("GET", "/loop|/manifests/", Answer(302, headers={"Location": "/v2/loop"}))
    with pytest.raises(Stray) as caught:
        resolve(f"{registry.host}/a/b@{SMALL.digest}")
    assert str(caught.value) == 'Get "/v2/loop": stopped after 10 redirects'
    assert registry.seen("GET", "/loop") == 10


@pytest.mark.parametrize("location", ["file:///etc/shadow", "gopher://x/", "unix:///run/x"])
def test_a_redirect_to_another_scheme_is_refused(registry: Registry, location: str) -> None:
    registry.fault("GET", "/manifests/", Answer(302, headers={"Location": location}))
    with pytest.raises(Stray, match="unsupported protocol scheme"):
        resolve(f"{registry.host}/a/b@{SMALL.digest}")


# Authorization


def test_anonymous_where_a_password_is_wanted() -> None:
    with Registry(auth=Basic(username="u", password="p")) as registry:
        with pytest.raises(errors.EngineError) as caught:
            resolve(f"{registry.host}/a/b:1")
        url = f"http://{registry.host}/v2/a/b/manifests/1"
        assert str(caught.value) == f'Head "{url}": no basic auth credentials'


def test_a_wrong_password() -> None:
    with Registry(auth=Basic(username="u", password="p")) as registry:
        wrong = RegistryAuth(username="u", password="x")
        with pytest.raises(errors.Unauthorized, match=r"^unauthorized$"):
            resolve(f"{registry.host}/a/b:1", auth=wrong)


@pytest.mark.parametrize(
    "auth",
    [RegistryAuth(username="user", password="pass"), RegistryAuth(identity_token="refresh-me")],
)
def test_a_token_is_fetched_once(auth: RegistryAuth) -> None:
    with Registry(auth=Bearer()) as registry:
        registry.add("a/b:1", SMALL)
        assert resolve(f"{registry.host}/a/b:1", auth=auth).data == SMALL.manifest
        asked = [s for s in registry.requests if s.path == "/token"]
        assert len(asked) == 1
        if auth.has_password:
            assert asked[0].query["scope"] == "repository:a/b:pull"
            assert asked[0].query["account"] == "user"


def test_anyone_may_read_with_a_token() -> None:
    with Registry(auth=Bearer(anonymous_pull=True)) as registry:
        registry.add("a/b:1", SMALL)
        assert resolve(f"{registry.host}/a/b:1").data == SMALL.manifest


def test_wrong_credentials_for_a_token() -> None:
    with Registry(auth=Bearer()) as registry:
        with pytest.raises(errors.Unauthorized) as caught:
            resolve(f"{registry.host}/a/b:1", auth=RegistryAuth(username="user", password="x"))
        url = f"http://{registry.host}/v2/a/b/manifests/1"
        assert str(caught.value) == (f'Head "{url}": unauthorized: incorrect username or password')


def test_a_registry_token_is_sent_as_it_is() -> None:
    with Registry(auth=Bearer()) as registry:
        with pytest.raises(errors.Unauthorized):
            resolve(f"{registry.host}/a/b:1", auth=RegistryAuth(registry_token="given"))
        assert registry.requests[-1].authorization == "Bearer given"
        assert registry.seen("GET", "/token") == 0


def test_secrets_do_not_show() -> None:
    auth = RegistryAuth(username="u", password="p4ss", identity_token="1d", registry_token="r3g")
    assert not any(secret in repr(auth) for secret in ("p4ss", "1d", "r3g"))


def test_a_realm_that_redirects_gets_no_password() -> None:
    with Registry() as elsewhere, Registry(auth=Bearer()) as registry:
        elsewhere.fault("GET", "/t", Answer(200, body=b'{"token":"x"}'))
        moved = Answer(302, headers={"Location": f"{elsewhere.url}/t"})
        registry.fault("GET", "/token", moved)
        auth = RegistryAuth(username="user", password="pass")
        with pytest.raises(errors.Unauthorized):
            resolve(f"{registry.host}/a/b:1", auth=auth)
        assert [s.authorization for s in elsewhere.requests] == [""]


@pytest.mark.parametrize("kind", [Basic(username="u", password="p"), Bearer()], ids=repr)
def test_a_place_that_the_ping_is_led_to_gets_no_password(kind: Basic | Bearer) -> None:
    with Registry(auth=kind) as elsewhere, Registry() as registry:
        moved = Answer(302, headers={"Location": f"{elsewhere.url}/v2/"})
        registry.fault("GET", "^/v2/$", moved)
        registry.add("a/b:1", SMALL)
        auth = RegistryAuth(username="user", password="pass")
        assert resolve(f"{registry.host}/a/b:1", auth=auth).data == SMALL.manifest
        assert {s.authorization for s in elsewhere.requests} == {""}


def test_a_realm_that_is_no_url_is_told() -> None:
    with Registry() as registry:
        asks = {"WWW-Authenticate": 'Bearer realm="https://[x"'}
        registry.fault("GET", "^/v2/$", Answer(401, headers=asks))
        with pytest.raises(errors.WharfError, match=r"missing '\]' in host"):
            resolve(f"{registry.host}/a/b:1")


def test_a_name_that_is_none_is_told() -> None:
    with pytest.raises(errors.WharfError):
        resolve(f"{'a' * 70}.invalid/a/b:1")


# Login


def test_login_with_basic() -> None:
    with Registry(auth=Basic(username="u", password="p")) as registry:
        auth = RegistryAuth(username="u", password="p", server_address=registry.host)
        assert login(auth) == ""


def test_login_gives_an_identity_token() -> None:
    with Registry(auth=Bearer()) as registry:
        auth = RegistryAuth(username="user", password="pass", server_address=registry.url)
        assert login(auth) == "refresh-me"
        [token] = [s for s in registry.requests if s.path == "/token"]
        assert token.query["offline_token"] == "true"


def test_a_failed_login_with_basic() -> None:
    with Registry(auth=Basic(username="u", password="p")) as registry:
        auth = RegistryAuth(username="u", password="x", server_address=registry.host)
        with pytest.raises(errors.EngineError) as caught:
            login(auth)
        assert str(caught.value) == (
            f"login attempt to http://{registry.host}/v2/ failed with status: 401 Unauthorized"
        )


def test_a_failed_login_with_a_token() -> None:
    with Registry(auth=Bearer()) as registry:
        auth = RegistryAuth(username="user", password="x", server_address=registry.host)
        with pytest.raises(errors.Unauthorized) as caught:
            login(auth)
        assert str(caught.value) == (
            f'Get "http://{registry.host}/v2/": unauthorized: incorrect username or password'
        )


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://[::1", "parse \"http://[::1\": missing ']' in host"),
        ("%zz", 'parse "https://%zz": invalid URL escape "%zz"'),
        ("a b", 'parse "https://a b": invalid character " " in host name'),
        ("x:y:z", 'parse "https://x:y:z": invalid port ":z" after host'),
    ],
)
def test_a_bad_address_to_log_in_to(address: str, said: str) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        login(RegistryAuth(server_address=address))
    assert str(caught.value) == f"unable to parse server address: {said}"


def test_an_address_with_a_port_that_is_none() -> None:
    with pytest.raises(errors.EngineError) as caught:
        login(RegistryAuth(server_address="localhost:99999"))
    assert str(caught.value) == (
        'Get "http://localhost:99999/v2/": dial tcp: address 99999: invalid port'
    )


def test_an_address_without_a_host() -> None:
    with pytest.raises(errors.EngineError, match=r"http: no Host in request URL$"):
        login(RegistryAuth(server_address="https://"))


# Inspecting


def test_inspect_an_index(registry: Registry) -> None:
    arm = images.Image(SMALL.layers, architecture="arm64", variant="v8")
    registry.add("a/b:latest", images.Index((SMALL, arm)))

    async def run() -> list[str]:
        async with client() as found:
            inspection = await found.inspect(reference.parse(f"{registry.host}/a/b"), None)
            return [str(platform) for platform in inspection.platforms]

    assert asyncio.run(run()) == [f"linux/{images.ARCHITECTURE}", "linux/arm64/v8"]


def test_inspect_an_image(registry: Registry) -> None:
    registry.add("a/b:1", SMALL)

    async def run() -> tuple[str, int, list[str]]:
        async with client() as found:
            inspection = await found.inspect(reference.parse(f"{registry.host}/a/b:1"), None)
            descriptor = inspection.descriptor
            return descriptor.digest, descriptor.size, [str(p) for p in inspection.platforms]

    assert asyncio.run(run()) == (
        SMALL.digest,
        len(SMALL.manifest),
        [f"linux/{images.ARCHITECTURE}"],
    )
