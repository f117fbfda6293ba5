"""What one row of the table is, how it is played on an engine, and how its answers are written.

A scene has a network, a container `self` on it with two servers (one port published, one not), a
`mate` beside it and a `stranger` on another network. Asked for are

    own, shut   the two ports, at the container's own address
    lan, lo, gw the published port, at the host's address on the LAN, on loopback, on the bridge
    ll          the same at the host's link-local address on the LAN
    out         a server of the neighbour's or (`self` asks) beyond the router

each over IPv4 and IPv6 and by TCP and UDP. The answer is whom the server saw.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from tests.support import internet
from tests.support.questions import Question, ask_all, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.engine import Engine
    from tests.support.internet import Internet

PUBLISHED, PORT, UNPUBLISHED, OUTSIDE = 80, 46080, 46079, 46078
_PROTOCOLS = ("tcp", "udp")
_ASKED = {
    "self": ("lan", "own", "out", "far"),
    "mate": ("own", "shut", "lan", "gw"),
    "stranger": ("own", "shut", "lan", "gw"),
    "host": ("own", "shut", "lan", "lo", "gw"),
    "neighbour": ("own", "shut", "lan", "lo", "gw", "ll"),
    "far": ("lan",),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """`create` are flags of the network, or `network` is one that is there; `publish` stands behind
    `-p`, with the protocol to come, and leads from `port` to `inner`; `joins` has a container of
    its own publish that, and `self` in its namespace. `reached` has "where=seen" in words for each
    who asks, for UDP alone "where/udp=seen"; what is not named is not reached. `beyond` takes the
    place of that where Wharf differs, and `reason` says why.
    """

    name: str
    create: tuple[str, ...] = ()
    network: str = ""
    publish: tuple[str, ...] = (f"{PORT}:{PUBLISHED}",)
    port: int = PORT
    inner: int = PUBLISHED
    joins: bool = False
    reached: Mapping[str, str] = field(default_factory=dict[str, str])
    beyond: Mapping[str, str] = field(default_factory=dict[str, str])
    reason: str = ""


def expected(scene: Scene, *, is_wharf: bool) -> dict[str, str]:
    """Each who asks, with the words in order."""
    found = {**scene.reached, **(scene.beyond if is_wharf else {})}
    return {who: " ".join(sorted(words.split())) for who, words in found.items() if words}


def play(scene: Scene, engine: Engine, net: Internet, base: str) -> dict[str, str]:
    """Make the scene, ask all that can be asked of it, and take it away again."""
    with played(scene, engine, net, base) as stage:
        return stage.ask()


@dataclass
class Stage:
    """A scene that stands: where who is, and what is called how."""

    scene: Scene
    namespaces: dict[str, str | None]
    addresses: dict[str, str]

    @property
    def _names(self) -> dict[str, str]:
        """Of addresses, as a server sees them."""
        known = {address: name for name, address in self.addresses.items()}
        return {address: name.rstrip("46") for address, name in known.items()}

    def ask(self) -> dict[str, str]:
        asked = [
            (who, where, version, protocol)
            for who, targets in _ASKED.items()
            if who in self.namespaces
            for where, version, protocol in itertools.product(targets, (4, 6), _PROTOCOLS)
        ]
        named = [(key, q) for key in asked if (q := self._question(*key)) is not None]
        answers = ask_all([question for _, question in named])
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for ((who, where, version, protocol), _), answer in zip(named, answers, strict=True):
            if answer is not None:
                found[who][f"{where}{version}/{protocol}"] = self._names.get(answer, answer)
        return {who: _words(cells) for who, cells in found.items()}

    def _question(self, who: str, where: str, version: int, protocol: str) -> Question | None:
        scene = self.scene
        port = {
            "own": scene.inner,
            "shut": UNPUBLISHED,
            "out": OUTSIDE,
            "far": OUTSIDE,
        }.get(where, scene.port)
        if where == "ll":
            address = self.addresses["ll"] if version == 6 else ""
        else:
            place = {"own": "self", "shut": "self", "out": "neighbour"}.get(where, where)
            address = self.addresses.get(f"{place}{version}", "")
        if not address:
            return None
        scope = "eth0" if where == "ll" else ""
        return Question(self.namespaces[who], address, port, protocol, scope)


def _words(cells: Mapping[str, str]) -> str:
    """What TCP and UDP see alike is said once."""
    words: list[str] = []
    for where in sorted({cell.partition("/")[0] for cell in cells}):
        seen = [cells.get(f"{where}/{protocol}", "-") for protocol in _PROTOCOLS]
        if seen[0] == seen[1]:
            words.append(f"{where}={seen[0]}")
        else:
            pairs = zip(_PROTOCOLS, seen, strict=True)
            words += [f"{where}/{protocol}={saw}" for protocol, saw in pairs if saw != "-"]
    return " ".join(sorted(words))


@contextlib.contextmanager
def played(scene: Scene, engine: Engine, net: Internet, base: str) -> Iterator[Stage]:
    network = scene.network or base
    with contextlib.ExitStack() as stack:
        if not scene.network:
            engine.docker("network", "create", *scene.create, base)
            stack.callback(engine.docker, "network", "rm", base, check=False)
        flags = [f"-p={each}/{protocol}" for each in scene.publish for protocol in _PROTOCOLS]
        donor = f"{base}-donor"
        if scene.joins:
            engine.docker(
                "run", "-d", "--name", donor, "--network", network, *flags, "busybox", *_IDLE
            )
            stack.callback(engine.docker, "rm", "-f", donor)
            flags = []
        target = f"container:{donor}" if scene.joins else network
        made = engine.docker(
            "run", "-d", "--name", base, f"--network={target}", *flags, "busybox", *_IDLE
        )
        assert not made.stderr or b"discarded" in made.stderr, made.stderr
        stack.callback(engine.docker, "rm", "-f", base)
        mate = f"{base}-mate"
        engine.docker("run", "-d", "--name", mate, "--network", network, "busybox", *_IDLE)
        stack.callback(engine.docker, "rm", "-f", mate)
        stage = _stage(scene, engine, net, network, base)
        stack.enter_context(serving(stage.namespaces["self"], (scene.inner, UNPUBLISHED)))
        yield stage


_IDLE = ("sleep", "600")


def _stage(scene: Scene, engine: Engine, net: Internet, network: str, base: str) -> Stage:
    [facts] = json.loads(engine.out("network", "inspect", network))
    served = engine.inspect(base)
    donor = engine.inspect(f"{base}-donor") if scene.joins else served
    mate, stranger = engine.inspect(f"{base}-mate"), engine.inspect(STRANGER)
    addresses = {
        "lan4": internet.LAN4,
        "lan6": internet.LAN6,
        "lo4": "127.0.0.1",
        "lo6": "::1",
        "ll": net.link_local,
        "neighbour4": internet.NEIGHBOUR4,
        "neighbour6": internet.NEIGHBOUR6,
        "far4": internet.FAR4,
        "far6": internet.FAR6,
        **_addresses("stranger", stranger),
        **_addresses("mate", mate),
        **_addresses("self", donor),
    }
    subnets = [ip_network(c["Subnet"]) for c in facts["IPAM"]["Config"] or ()]
    for subnet in subnets:
        # Where nothing was said it is the first one, which dockerd does not show.
        addresses[f"gw{subnet.version}"] = str(subnet[1])
    if addresses.get("self4", "") == addresses.get("gw4"):
        addresses = {name: a for name, a in addresses.items() if name not in ("gw4", "gw6")}
    net.route([str(subnet) for subnet in subnets])
    return Stage(
        scene,
        {
            "self": _namespace(served),
            "mate": _namespace(mate),
            "stranger": _namespace(stranger),
            "host": None,
            "neighbour": net.neighbour,
            "far": net.far,
        },
        addresses,
    )


STRANGER = "reachability-stranger"


def _namespace(container: Any) -> str:
    return f"/proc/{container['State']['Pid']}/ns/net"


def _addresses(name: str, container: Any) -> dict[str, str]:
    endpoints = container["NetworkSettings"]["Networks"].values()
    found = [
        ip_address(a) for e in endpoints for a in (e["IPAddress"], e["GlobalIPv6Address"]) if a
    ]
    return {f"{name}{address.version}": str(address) for address in found}
