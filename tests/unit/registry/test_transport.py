"""Where a registry may send us, whom we believe, through which proxy."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from engine import errors
from engine.oci import reference
from engine.registry.addresses import is_inside
from engine.registry.client import Repository
from engine.registry.failure import Stray, Unreachable
from engine.registry.mirror import Endpoint
from engine.registry.proxies import Proxies
from engine.registry.transport import Origin, Transport
from tests.support.registry import Answer, Registry
from tests.unit.registry.conftest import client

if TYPE_CHECKING:
    from pathlib import Path

PUBLIC = Origin(endpoint=Endpoint(url="https://registry.example"))


def get(origin: Origin, url: str) -> int:
    async def run() -> int:
        transport = Transport(certs_dir="/nonexistent")
        try:
            async with transport.request(origin, "GET", url) as response:
                await response.read(1 << 20)
                return response.status
        finally:
            await transport.close()

    return asyncio.run(run())


# Where a registry may send us


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1.2.3",
        "::1",
        "169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "localhost",
        "a.localhost",
    ],
)
def test_inside(host: str) -> None:
    assert is_inside(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "registry.example"])
def test_outside(host: str) -> None:
    assert not is_inside(host)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://localhost/x",
    ],
)
def test_a_registry_out_there_cannot_reach_in(url: str) -> None:
    with pytest.raises(Stray, match="may not lead to an address of this host"):
        get(PUBLIC, url)


def test_nor_by_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: object, **__: object) -> list[dict[str, object]]:
        host = {"hostname": "evil.example", "host": "127.0.0.1", "port": 443}
        return [{**host, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr("aiohttp.resolver.ThreadedResolver.resolve", resolve)
    with pytest.raises(Unreachable):
        get(PUBLIC, "https://evil.example/x")


def test_a_registry_with_https_cannot_lead_to_http() -> None:
    with pytest.raises(Stray, match="may not lead to plain http"):
        get(PUBLIC, "http://other.example/x")


def test_a_registry_of_this_host_may(registry: Registry) -> None:
    inner = Origin(endpoint=Endpoint(url="http://127.0.0.1:1", is_secure=False))
    assert get(inner, f"{registry.url}/v2/") == 200


# Proxies


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/", "http://sproxy:1"),
        ("http://a.example/", "http://proxy:1"),
        ("http://127.0.0.1/", None),
        ("http://localhost:5000/", None),
        ("https://skip.example/", None),
        ("https://sub.skip.example/", None),
        ("https://noskip.example/", "http://sproxy:1"),
        ("https://x.dotted.example/", None),
        ("https://dotted.example/", "http://sproxy:1"),
        ("https://10.1.2.3/", None),
        ("https://11.1.2.3/", "http://sproxy:1"),
        ("https://port.example:8443/", None),
        ("https://port.example/", "http://sproxy:1"),
    ],
)
def test_proxies(url: str, expected: str | None) -> None:
    exceptions = "skip.example, .dotted.example,10.0.0.0/8,port.example:8443"
    proxies = Proxies.of("proxy:1", "http://sproxy:1", exceptions, {})
    assert proxies.for_url(URL(url)) == expected


def test_no_proxy_at_all() -> None:
    assert Proxies.of("p:1", "p:1", "*", {}).for_url(URL("https://a.example")) is None


def test_configuration_goes_before_the_environment() -> None:
    environment = {"HTTP_PROXY": "other:1", "https_proxy": "lower:1", "NO_PROXY": "a"}
    proxies = Proxies.of("mine:1", "", "", environment)
    assert proxies == Proxies(http="mine:1", https="lower:1", exceptions=("a",))


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, with its key, as `server.crt` and `server.key`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=registry"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def serve(certificate: Path, *, wants_client: bool = False) -> Registry:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "server.crt", certificate / "server.key")
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate / "server.crt")
    return Registry(tls=context)


def ping(certs_dir: Path, endpoint: Endpoint) -> int:
    async def run() -> int:
        transport = Transport(certs_dir=str(certs_dir))
        try:
            origin = await transport.origin(endpoint)
            async with transport.request(origin, "GET", f"{endpoint.url}/v2/") as response:
                return response.status
        finally:
            await transport.close()

    return asyncio.run(run())


def test_an_unknown_authority_is_refused(certificate: Path, tmp_path: Path) -> None:
    with serve(certificate) as registry:
        with pytest.raises(Unreachable) as caught:
            ping(tmp_path, Endpoint(url=registry.url))
        assert str(caught.value) == (
            f'Get "{registry.url}/v2/": tls: failed to verify certificate: x509: '
            "certificate signed by unknown authority"
        )


def test_an_insecure_registry_need_not_prove_who_it_is(certificate: Path, tmp_path: Path) -> None:
    with serve(certificate) as registry:
        assert ping(tmp_path, Endpoint(url=registry.url, is_secure=False)) == 200


def test_certs_d_names_an_authority(certificate: Path, tmp_path: Path) -> None:
    with serve(certificate) as registry:
        folder = tmp_path / registry.host
        folder.mkdir()
        shutil.copy(certificate / "server.crt", folder / "ca.crt")
        assert ping(tmp_path, Endpoint(url=registry.url)) == 200


def test_certs_d_has_a_client_certificate(certificate: Path, tmp_path: Path) -> None:
    with serve(certificate, wants_client=True) as registry:
        folder = tmp_path / registry.host
        folder.mkdir()
        shutil.copy(certificate / "server.crt", folder / "ca.crt")
        with pytest.raises(Unreachable):
            ping(tmp_path, Endpoint(url=registry.url))
        shutil.copy(certificate / "server.crt", folder / "client.cert")
        shutil.copy(certificate / "server.key", folder / "client.key")
        assert ping(tmp_path, Endpoint(url=registry.url)) == 200


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "client.cert",
            "missing key client.key for client certificate client.cert. "
            "CA certificates must use the extension .crt",
        ),
        ("client.key", "missing client certificate client.cert for key client.key"),
    ],
)
def test_half_a_pair_in_certs_d(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "registry.example").mkdir()
    (tmp_path / "registry.example" / name).touch()
    with pytest.raises(errors.InvalidParameter) as caught:
        ping(tmp_path, Endpoint(url="https://registry.example"))
    assert str(caught.value) == sentence


def test_plain_http_behind_https(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"server gave HTTP response to HTTPS client$"):
        ping(tmp_path, Endpoint(url=f"https://{registry.host}", is_secure=False))


def test_once_a_host_spoke_tls_it_is_not_asked_in_plain(certificate: Path) -> None:
    with serve(certificate) as registry:
        registry.fault("GET", "/tags/", Answer(500))

        async def run() -> None:
            async with client() as found:
                await found.attempt(reference.parse(f"{registry.host}/a/b"), None, Repository.tags)

        with pytest.raises(errors.EngineError, match="500"):
            asyncio.run(run())
        assert registry.seen("GET", "/tags/") == 4
