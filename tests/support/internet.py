"""A small internet around this host, made of network namespaces: who asks containers from outside.

    this host ── switch ┬─ neighbour
      .1                │    .2
                        └─ router ── far
                             .3        another network

The host gets one link, to the switch; everything else goes with its namespace. A machine is a file
that keeps a namespace (`engine.linux.netns`). The neighbour's loopback link is down, so that it may
send packets for 127.0.0.0/8 to whom it likes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.linux import netlink, netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LINK: Final = "inet-lan"
LAN4, LAN6 = "198.51.100.1", "fd00:1a2::1"
NEIGHBOUR4, NEIGHBOUR6 = "198.51.100.2", "fd00:1a2::2"
FAR4, FAR6 = "203.0.113.2", "fd00:fa2::2"
_ROUTER4, _ROUTER6 = "198.51.100.3", "fd00:1a2::3"
_BEYOND4, _BEYOND6 = "203.0.113.1", "fd00:fa2::1"
_READY_S = 5.0
_MTU = 1500


@dataclass(frozen=True)
class Internet:
    """Files that keep the namespaces of the machines, and this host's link-local address."""

    neighbour: str
    far: str
    link_local: str

    def route(self, subnets: Sequence[str]) -> None:
        """Have the neighbour send to this host what is for these subnets."""
        commands = [f"route replace {s} via {LAN6 if ':' in s else LAN4}" for s in subnets]
        netns.enter(self.neighbour, lambda _: ip(*commands))


def ip(*commands: str) -> None:
    """ip(8) of busybox, in the namespace of this thread."""
    for command in commands:
        family = ["-6"] if ":" in command else []
        subprocess.run(["busybox", "ip", *family, *command.split()], check=True)


@contextlib.contextmanager
def internet() -> Iterator[Internet]:
    """All of it is gone at the end, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="internet-", dir="/var/tmp"))
    machines = {name: str(folder / name) for name in ("switch", "neighbour", "router", "far")}
    _unplug_host()
    try:
        for path in machines.values():
            netns.create(path, lambda _: netlink.execute([netlink.set_up(1, "lo")]))
        _wire(**machines)
        yield Internet(machines["neighbour"], machines["far"], _link_local(LINK))
    finally:
        _unplug_host()
        for path in machines.values():
            netns.remove(path)
        folder.rmdir()


def _unplug_host() -> None:
    """Its addresses and routes go with the link."""
    with netlink.Socket() as sock:
        sock.attempt(netlink.delete_link(LINK))


def _wire(switch: str, neighbour: str, router: str, far: str) -> None:
    netns.enter(switch, lambda _: _add_bridge("lan", 0xFE))
    _plug(switch, "lan", "/proc/self/ns/net", LINK, 1)
    _plug(switch, "lan", neighbour, "eth0", 2)
    _plug(switch, "lan", router, "eth0", 3)
    netns.enter(router, lambda _: _add_bridge("eth1", 0xFD))
    _plug(router, "eth1", far, "eth0", 4)

    _address(LINK, f"{LAN4}/24", f"{LAN6}/64")
    ip(f"route add 203.0.113.0/24 via {_ROUTER4}", f"route add fd00:fa2::/64 via {_ROUTER6}")

    def attack(_: int) -> None:
        _address("eth0", f"{NEIGHBOUR4}/24", f"{NEIGHBOUR6}/64")
        ip("link set lo down")
        for knob in ("ipv4/conf/eth0/route_localnet", "ipv4/conf/all/route_localnet"):
            Path(f"/proc/sys/net/{knob}").write_text("1")
        ip(f"route add 127.0.0.0/8 via {LAN4}")

    def forward(_: int) -> None:
        _address("eth0", f"{_ROUTER4}/24", f"{_ROUTER6}/64")
        _address("eth1", f"{_BEYOND4}/24", f"{_BEYOND6}/64")
        for knob in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path(f"/proc/sys/net/{knob}").write_text("1")

    def stand_far(_: int) -> None:
        _address("eth0", f"{FAR4}/24", f"{FAR6}/64")
        ip(f"route add default via {_BEYOND4}", f"route add default via {_BEYOND6}")

    netns.enter(neighbour, attack)
    netns.enter(router, forward)
    netns.enter(far, stand_far)
    for path in (neighbour, far):
        for address in (LAN4, LAN6):
            netns.enter(path, lambda _, to=address: _await(functools.partial(_answers, to)))


def _add_bridge(name: str, number: int) -> None:
    with netlink.Socket() as sock:
        sock.execute(netlink.add_bridge(name, mac=_mac(number)))
        sock.execute(netlink.set_up(socket.if_nametoindex(name), name))


def _mac(number: int) -> str:
    return f"02:00:5e:10:00:{number:02x}"


def _plug(path: str, bridge: str, other: str, name: str, number: int) -> None:
    """A cable from a port of a bridge in one namespace to a link in another, which is `other`."""
    target = os.open(other, os.O_RDONLY | os.O_CLOEXEC)

    def plug(_: int) -> None:
        cable = f"port{number}"
        master = socket.if_nametoindex(bridge)
        with netlink.Socket() as sock:
            sock.execute(
                netlink.add_veth(
                    cable,
                    master=master,
                    mtu=_MTU,
                    peer=name,
                    peer_mac=_mac(number),
                    peer_netns=target,
                )
            )
            sock.execute(netlink.raise_port(cable, hairpin=False, isolated=False))

    try:
        netns.enter(path, plug)
    finally:
        os.close(target)


def _address(name: str, *addresses: str) -> None:
    index = socket.if_nametoindex(name)
    netlink.execute(
        [
            *(netlink.add_address(index, ip_interface(address)) for address in addresses),
            netlink.set_up(index, name),
        ]
    )


def _link_local(name: str) -> str:
    """As the kernel made it of the link's MAC address (proc(5), net/if_inet6)."""
    for line in Path("/proc/self/net/if_inet6").read_text().splitlines():
        address, *_, link = line.split()
        if link == name and address.startswith("fe80"):
            return str(IPv6Address(bytes.fromhex(address)))
    raise LookupError(f"{name} has no link-local address")


def _answers(address: str) -> bool:
    """Whether a host is there: it refuses a port, or takes it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.5)
        try:
            sock.connect((address, 9))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return True


def _await(probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_S
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError("the machines do not hear each other")
        time.sleep(0.02)
