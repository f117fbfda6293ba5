from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING

import pytest

from engine.errors import InvalidParameter
from engine.registry import mirror

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = {"localhost": ["127.0.0.1"], "inner.example": ["10.1.2.3"], "outer.example": ["192.0.2.1"]}


async def resolve(name: str) -> Iterable[str]:
    return NAMES.get(name, [])


def urls(domain: str, *, mirrors: Iterable[str] = (), insecure: Iterable[str] = ()) -> list[str]:
    config = mirror.service_config(mirrors, insecure)
    found = asyncio.run(mirror.endpoints(config, domain, resolve))
    return [endpoint.url for endpoint in found]


@pytest.mark.parametrize(
    ("domain", "insecure", "expected"),
    [
        ("docker.io", (), ["https://registry-1.docker.io"]),
        ("index.docker.io", (), ["https://registry-1.docker.io"]),
        ("outer.example", (), ["https://outer.example"]),
        ("unknown.example:5000", (), ["https://unknown.example:5000"]),
        ("127.0.0.1:5000", (), ["https://127.0.0.1:5000", "http://127.0.0.1:5000"]),
        ("[::1]:5000", (), ["https://[::1]:5000", "http://[::1]:5000"]),
        ("localhost:5000", (), ["https://localhost:5000", "http://localhost:5000"]),
        ("10.1.2.3", ("10.0.0.0/8",), ["https://10.1.2.3", "http://10.1.2.3"]),
        ("inner.example", ("10.0.0.0/8",), ["https://inner.example", "http://inner.example"]),
        ("outer.example:80", ("outer.example",), ["https://outer.example:80"]),
        (
            "outer.example:80",
            ("http://outer.example:80",),
            ["https://outer.example:80", "http://outer.example:80"],
        ),
    ],
)
def test_endpoints(domain: str, insecure: tuple[str, ...], expected: list[str]) -> None:
    assert urls(domain, insecure=insecure) == expected


def test_mirrors_go_before_the_hub_in_their_order() -> None:
    mirrors = ("https://a.example", "http://127.0.0.1:5000/", "https://a.example/")
    assert urls("docker.io", mirrors=mirrors) == [
        "https://a.example",
        "http://127.0.0.1:5000",
        "https://registry-1.docker.io",
    ]


def test_other_registries_have_no_mirrors() -> None:
    assert urls("outer.example", mirrors=("https://a.example",)) == ["https://outer.example"]


def test_mirrors_of_any_registry() -> None:
    registries = {
        "quay.example:5000": ("https://a.example/q", "http://b.example/"),
        "127.0.0.1:5000": ("https://c.example",),
        "index.docker.io": ("https://d.example",),
    }
    config = mirror.service_config(["https://e.example"], (), registries)

    def found(domain: str, *, with_mirrors: bool = True) -> list[str]:
        endpoints = mirror.endpoints(config, domain, resolve, with_mirrors=with_mirrors)
        return [f"{e.url} {e.is_mirror}" for e in asyncio.run(endpoints)]

    assert found("quay.example:5000") == [
        "https://a.example/q True",
        "http://b.example True",
        "https://quay.example:5000 False",
    ]
    assert found("quay.example:5000", with_mirrors=False) == ["https://quay.example:5000 False"]
    assert found("quay.example") == ["https://quay.example False"]
    assert found("127.0.0.1:5000")[0] == "https://c.example True"
    assert found("docker.io")[:2] == ["https://e.example True", "https://d.example True"]


@pytest.mark.parametrize("name", ["", "https://quay.io", "quay.io/x", "-x", "a b", "*.quay.io"])
def test_what_is_no_registry(name: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        mirror.service_config((), (), {name: ()})
    assert str(caught.value) == f'"{name}" is no registry: must be a host or host:port'


def test_facts_for_info() -> None:
    config = mirror.service_config(("http://127.0.0.1:5000",), ("127.0.0.1:5000", "10.0.0.0/8"))
    assert config.mirrors == ("http://127.0.0.1:5000/",)
    assert [str(cidr) for cidr in config.insecure_cidrs] == ["10.0.0.0/8", "::1/128", "127.0.0.0/8"]
    assert config.indexes["127.0.0.1:5000"] == mirror.IndexInfo(
        name="127.0.0.1:5000", is_secure=False
    )
    assert config.indexes["docker.io"] == mirror.IndexInfo(
        name="docker.io", mirrors=("http://127.0.0.1:5000/",), is_official=True
    )


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "mirror.example",
            'invalid mirror: no scheme specified for "mirror.example": '
            "must use either 'https://' or 'http://'",
        ),
        (
            "ftp://m",
            'invalid mirror: unsupported scheme "ftp" in "ftp://m": '
            "must use either 'https://' or 'http://'",
        ),
        ("https://m/?q", 'invalid mirror: query or fragment at end of the URI "https://m/?q"'),
        (
            "https://u:secret@m",
            'invalid mirror: username/password not allowed in URI "https://u:xxxxx@m"',
        ),
    ],
)
def test_bad_mirrors(url: str, sentence: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        mirror.check_mirror(url)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", ["-a", "a-", "ftp://a", "a b", "a:99999", "10.0.0.0/99", "a/b"])
def test_bad_insecure_registries(name: str) -> None:
    with pytest.raises(InvalidParameter):
        mirror.check_insecure(name)


@pytest.mark.parametrize("name", ["a", "a.b:80", "10.0.0.1", "[::1]:5000", "::1"])
def test_insecure_hosts(name: str) -> None:
    assert mirror.check_insecure(name) == name


def test_insecure_networks() -> None:
    assert mirror.check_insecure("10.1.2.3/8") == ipaddress.ip_network("10.0.0.0/8")
