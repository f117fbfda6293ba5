"""/etc/hosts and /etc/resolv.conf, as Docker shapes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.network import files, names

if TYPE_CHECKING:
    from pathlib import Path


def test_hosts_of_a_container() -> None:
    assert names.hosts([("10.0.0.9", "db")], ["172.17.0.2", "fd00::2"], "web") == (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "ff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
        "10.0.0.9\tdb\n"
        "172.17.0.2\tweb\n"
        "fd00::2\tweb\n"
    )
    assert names.hosts([], ["172.17.0.2", "fd00::2"], "web", has_ipv6=False) == (
        "127.0.0.1\tlocalhost\n172.17.0.2\tweb\n"
    )


@pytest.mark.parametrize(
    ("hostname", "domainname", "found"),
    [
        ("web", "", "web"),
        ("web", "example.org", "web.example.org web"),
        ("web.example.org", "", "web.example.org web"),
    ],
)
def test_a_whole_name_brings_its_first_part(hostname: str, domainname: str, found: str) -> None:
    assert names.own_names(hostname, domainname) == found


def test_extra_hosts_part_at_the_first_colon() -> None:
    entries = ("db:10.0.0.1", "six:fd00::1", "dressed:[fd00::2]", "up:host-gateway")
    assert names.extra_hosts(entries, ("172.17.0.1", "fd00::9")) == [
        ("10.0.0.1", "db"),
        ("fd00::1", "six"),
        ("fd00::2", "dressed"),
        ("172.17.0.1", "up"),
        ("fd00::9", "up"),
    ]
    with pytest.raises(names.NoHostGateway, match="unable to derive the IP value"):
        names.extra_hosts(("up:host-gateway",), ())
    with pytest.raises(names.BadExtraHost):
        names.extra_hosts(("nothing",), ())


def test_a_resolv_conf_is_read_as_the_resolver_reads_it() -> None:
    found = names.parse_resolv_conf(
        "# comment\n; other\n\nnameserver 10.0.0.1\nnameserver nonsense\nnameserver\n"
        "search a.example b.example\ndomain c.example\noptions ndots:2 rotate\noptions edns0\n"
        "sortlist 10.0.0.0/8\n"
    )
    assert found == names.ResolvConf(
        nameservers=("10.0.0.1",),
        search=("c.example",),
        options=("ndots:2", "rotate", "edns0"),
        other=("sortlist 10.0.0.0/8",),
        invalid=("nonsense",),
    )


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    found = names.parse_resolv_conf(text)
    assert all(server for server in found.nameservers)


HOST = names.ResolvConf(
    nameservers=("127.0.0.53", "10.0.0.1", "fd00::1"), search=("corp",), options=("ndots:1",)
)


def directives(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_servers_that_a_container_cannot_reach_are_left_out() -> None:
    text = names.resolv_conf(HOST, source="/etc/resolv.conf")
    assert directives(text) == ["nameserver 10.0.0.1", "search corp", "options ndots:1"]
    assert "# Based on host file: '/etc/resolv.conf' (legacy)\n# Overrides: []\n" in text
    assert text.endswith("# Option ndots from: host\n")
    assert directives(names.resolv_conf(HOST, source="x", has_ipv6=True))[1] == "nameserver fd00::1"


def test_the_host_s_own_namespace_reaches_all() -> None:
    text = names.resolv_conf(HOST, source="/etc/resolv.conf", has_own_namespace=False)
    assert directives(text)[0] == "nameserver 127.0.0.53"
    assert "(legacy)" not in text


def test_nothing_left_means_public_servers() -> None:
    local = names.ResolvConf(nameservers=("127.0.0.1",))
    text = names.resolv_conf(local, source="x")
    assert directives(text) == ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]
    assert "# Used default nameservers.\n" in text


def test_what_the_caller_names_is_what_stands_there() -> None:
    text = names.resolv_conf(
        HOST, source="x", nameservers=("127.0.0.1",), search=(".",), options=("rotate",)
    )
    assert directives(text) == ["nameserver 127.0.0.1", "options rotate"]
    assert "# Overrides: [nameservers search options]\n" in text
    with pytest.raises(names.BadNameserver):
        names.resolv_conf(HOST, source="x", nameservers=("dns.example",))


def test_dns_names_are_the_name_first_and_each_once() -> None:
    assert names.dns_names("web", ("www", "web"), "0123456789ab", "") == (
        "web",
        "www",
        "0123456789ab",
    )


@pytest.mark.parametrize("text", ["a\nnameserver 6.6.6.6", "a b", "", "a\x00"])
def test_no_value_becomes_a_line_of_its_own(text: str) -> None:
    """A8: what goes into a file is one word."""
    with pytest.raises(names.BadExtraHost):
        names.extra_hosts((f"{text}:10.0.0.1",), ())
    with pytest.raises(names.BadWord):
        names.resolv_conf(HOST, source="x", search=(text,))
    with pytest.raises(names.BadWord):
        names.resolv_conf(HOST, source="x", options=(text,))


def test_names_move_and_go(tmp_path: Path) -> None:
    path = str(tmp_path / "hosts")
    files.write(path, "127.0.0.1\tlocalhost\n172.17.0.2\tal 0123 web\nfd00::2\tal 0123 web\n#x\n")
    files.move_names(path, ["al", "other"], ["172.17.0.9"])
    moved = "127.0.0.1\tlocalhost\n172.17.0.9\tal 0123 web\nfd00::2\tal 0123 web\n#x\n"
    assert files.read(path) == moved
    files.drop_name(path, "0123")
    assert files.read(path) == moved
    files.drop_name(path, "al")
    assert files.read(path) == "127.0.0.1\tlocalhost\n#x\n"


@pytest.mark.parametrize(
    ("given", "options", "lines"),
    [
        ((), (), ["options ndots:0", "# ExtServers: [host(192.0.2.1)]", "internal"]),
        (
            ("192.0.2.9",),
            ("use-vc",),
            ["options use-vc ndots:0", "# ExtServers: [192.0.2.9]", "internal"],
        ),
        ((), ("ndots:3",), ["options ndots:3", "# ExtServers: [host(192.0.2.1)]", "override"]),
    ],
)
def test_the_file_of_a_container_with_a_resolver(
    given: tuple[str, ...], options: tuple[str, ...], lines: list[str]
) -> None:
    text = names.resolv_conf(
        names.parse_resolv_conf("nameserver 192.0.2.1\n"),
        source="/etc/resolv.conf",
        nameservers=given,
        options=options,
        resolver="127.0.0.11",
    )
    found = text.splitlines()
    assert [line for line in found if line.startswith("nameserver")] == ["nameserver 127.0.0.11"]
    assert lines[0] in found
    assert lines[1] in found
    assert "# Based on host file: '/etc/resolv.conf' (internal resolver)" in found
    assert f"# Option ndots from: {lines[2]}" in found
