"""compat.daemon.values and checks: each kind of value, from a flag and from the file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.daemon import checks, values
from engine.config import AddressPool, Runtime, Ulimit


def added(kind: values.Kind, *texts: str) -> Any:
    value = None
    for text in texts:
        value = kind.add(text, value)
    return value


@pytest.mark.parametrize(
    ("text", "number"), [("0x10", 16), ("1_000", 1000), ("-5", -5), ("010", 8), ("0b11", 3)]
)
def test_integers_are_go_literals(text: str, number: int) -> None:
    assert values.Integer().add(text, None) == number


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("x", "invalid syntax"), ("9" * 30, "out of range"), ("9" * 9999, "invalid syntax")],
)
def test_other_integers_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        values.Integer().add(text, None)


def test_lists_grow_and_maps_merge() -> None:
    assert added(values.Strings(), "a", "b") == ("a", "b")
    assert added(values.Strings(split=True), "a, b", "c") == ("a", "b", "c")
    assert added(values.Pairs(), "a=1", "b", "a=2=3") == {"a": "2=3", "b": ""}
    assert added(values.Switches(), "a", "b=false", "b=1") == {"a": True, "b": True}
    assert added(values.PairsByKey(), "x=a=1", "x=b=2", "y=a=3") == {
        "x": {"a": "1", "b": "2"},
        "y": {"a": "3"},
    }


def test_ulimits_replace_those_of_the_same_name() -> None:
    assert added(values.Ulimits(), "nofile=1:2", "core=0", "nofile=5") == (
        Ulimit(name="core", soft=0, hard=0),
        Ulimit(name="nofile", soft=5, hard=5),
    )
    in_file = {"nofile": {"Name": "nofile", "Hard": 5, "Soft": 4}, "core": {"hard": -1}}
    assert values.Ulimits().decode(in_file) == (
        Ulimit(name="nofile", soft=4, hard=5),
        Ulimit(name="core", soft=0, hard=-1),
    )


@pytest.mark.parametrize("text", ["nofile", "foo=1", "nofile=5:4", "nofile=1:2:3", "nofile=-1:5"])
def test_impossible_ulimits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="limit"):
        values.ulimit(text)


def test_pools_are_subnets_that_can_be_cut() -> None:
    expected = (AddressPool(base="10.10.0.0/16", size=24),)
    assert added(values.Pools(), "base=10.10.0.0/16,size=24") == expected
    assert values.Pools().decode([{"base": "10.10.0.0/16", "size": 24}]) == expected
    for text in ("x", "base=x,size=24", "base=10.0.0.0/8,size=7", "base=10.0.0.0/8,size=33", ""):
        with pytest.raises(ValueError, match=r"invalid|unexpected"):
            values.Pools().add(text, None)


def test_runtimes_have_names_that_are_free() -> None:
    assert added(values.Runtimes(), "crun=/bin/crun") == {"crun": Runtime(path="/bin/crun")}
    for texts in (["runc=/x"], ["wharf=/x"], ["x"], ["x="], ["a=/x", "a=/y"]):
        with pytest.raises(ValueError, match="runtime"):
            added(values.Runtimes(), *texts)
    assert values.Runtimes().decode({"runc": {"path": "/r", "runtimeArgs": ["--debug"]}}) == {
        "runc": Runtime(path="/r", args=("--debug",))
    }


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (values.Boolean(), "true"),
        (values.Boolean(), 1),
        (values.Integer(), True),
        (values.Integer(), 1.5),
        (values.Integer(), 2**64),
        (values.Text(), 5),
        (values.Text(), "nul\0"),
        (values.Strings(), "x"),
        (values.Strings(), ["x", 1]),
        (values.Pairs(), {"a": 1}),
        (values.Switches(), {"a": "b"}),
        (values.Size(), 5),
        (values.Pools(), [{"base": "10.0.0.0/8", "size": 24, "more": 1}]),
        (values.Runtimes(), {"x": "y"}),
        (values.Ulimits(), {"nofile": {"soft": "1"}}),
    ],
)
def test_another_type_in_the_file_is_refused_with_a_sentence(
    kind: values.Kind, value: object
) -> None:
    with pytest.raises(ValueError, match=r"^(must|is|has) "):
        kind.decode(value)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("", "unix:///var/run/docker.sock"),
        ("unix://", "unix:///var/run/docker.sock"),
        ("unix:///run/x.sock", "unix:///run/x.sock"),
        ("tcp://", "tcp://localhost:2375"),
        (":2375", "tcp://localhost:2375"),
        ("0.0.0.0", "tcp://0.0.0.0:2375"),
        ("tcp://[::1]:5", "tcp://[::1]:5"),
        ("fd://", "fd://"),
        ("fd://3", "fd://3"),
    ],
)
def test_hosts_are_filled_in(text: str, host: str) -> None:
    assert checks.parse_host(text, tls=False) == host


def test_tls_alone_listens_on_its_port() -> None:
    assert checks.parse_host("", tls=True) == "tcp://localhost:2376"


@pytest.mark.parametrize(
    "text",
    [
        *("foo://x", "http://a", "tcp://x/y", ":0", ":65536", "tcp://1.2.3.4:x", "tcp://[::1"),
        *("::1:5", "unix://a://b", "tcp://a b", "unix:///x\ny", "tcp://a:1:2", "tcp://[x]:5"),
    ],
)
def test_impossible_hosts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^invalid bind address \("):
        checks.parse_host(text, tls=False)


@given(st.text())
def test_any_host_is_filled_in_or_refused(text: str) -> None:
    try:
        host = checks.parse_host(text, tls=False)
    except ValueError:
        return
    assert host.startswith(("unix://", "tcp://", "fd://"))
    assert checks.parse_host(host, tls=False) == host


def test_mirrors_are_urls_with_a_slash_and_without_a_password() -> None:
    assert checks.mirror("https://m.example:5/x") == "https://m.example:5/x/"
    for text in ("x", "ftp://x", "http://x/?q", "http://x/#f", "http://", "http://x:y"):
        with pytest.raises(ValueError, match="invalid mirror"):
            checks.mirror(text)
    with pytest.raises(ValueError, match="username/password") as caught:
        checks.mirror("https://joe:secret@m.example")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("r.example:5000", "r.example:5000"),
        ("http://r:5", "r:5"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("[::1]:5000", "[::1]:5000"),
        ("index.docker.io", "docker.io"),
    ],
)
def test_insecure_registries_lose_their_scheme(text: str, kept: str) -> None:
    assert checks.insecure_registry(text) == kept


@pytest.mark.parametrize("text", ["-x", "x-", "ftp://x", "a b", "", "x/y", "x:y"])
def test_what_is_no_registry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid|should not|not valid"):
        checks.insecure_registry(text)


def test_search_domains_are_domains() -> None:
    assert checks.dns_search(" example.com. ") == "example.com"
    assert checks.dns_search(".") == "."
    for text in ("a b", "", "1.2", "-x.y", "x\nnameserver 6.6.6.6", "a" * 255):
        with pytest.raises(ValueError, match="is not a valid domain"):
            checks.dns_search(text)


def test_passwords_are_hidden() -> None:
    assert checks.without_password("http://a:b@c:1/d") == "http://xxxxx:xxxxx@c:1/d"
    assert checks.without_password("http://c") == "http://c"
