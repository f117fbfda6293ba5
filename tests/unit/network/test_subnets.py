"""What the host uses already, from the kernel's own text."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, ip_network

from engine.network import subnets

_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def _number(address: str) -> str:
    return f"{int.from_bytes(IPv4Address(address).packed, sys.byteorder):08X}"


def _route(link: str, destination: str, mask: str, flags: int = 1) -> str:
    numbers = f"{_number(destination)}\t00000000\t{flags:04X}\t0\t0\t0\t{_number(mask)}\t0\t0\t0"
    return f"{link}\t{numbers}   \n"


def test_ipv4_routes_are_read() -> None:
    text = (
        _HEAD
        + _route("eth0", "0.0.0.0", "0.0.0.0", 3)
        + _route("eth0", "192.0.2.0", "255.255.255.0")
        + _route("docker0", "172.17.0.0", "255.255.0.0")
        + _route("*", "10.0.0.0", "255.0.0.0", 0x201)
    )
    assert subnets.routes_of_text(text, "") == [
        (ip_network("0.0.0.0/0"), "eth0"),
        (ip_network("192.0.2.0/24"), "eth0"),
        (ip_network("172.17.0.0/16"), "docker0"),
    ]


def test_ipv6_routes_are_read_without_what_is_the_hosts_own() -> None:
    zero = "0" * 32
    rest = f"00 {zero} 00000100 00000001 00000000"
    text = (
        f"fd000000000000010000000000000000 40 {zero} {rest} 00000001     eth0\n"
        f"fd000000000000010000000000000001 80 {zero} {rest} 80200001     eth0\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
    )
    assert subnets.routes_of_text("", text) == [(ip_network("fd00:0:0:1::/64"), "eth0")]
