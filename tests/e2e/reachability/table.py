"""The table."""

from __future__ import annotations

from typing import Final

from tests.e2e.reachability.scene import PORT, Scene
from tests.support.internet import LAN4, LAN6, LINK

_BRIDGE: Final = "com.docker.network.bridge"
_SUBNET4: Final = ("--subnet", "10.231.5.0/24")
_SUBNET6: Final = ("--ipv6", "--subnet", "fd00:231:5::/64")
_BOTH: Final = (*_SUBNET4, *_SUBNET6)


def _modes(mode: str) -> tuple[str, ...]:
    return tuple(f"-o={_BRIDGE}.gateway_mode_ipv{version}={mode}" for version in (4, 6))


SCENES: Final = (
    Scene(
        name="default bridge",
        network="bridge",
        reached={
            "self": "far4=lan lan4=gw out4=lan own4=self",
            "mate": "gw4=gw lan4=gw own4=mate shut4=mate",
            "stranger": "gw4=gw lan4=gw lan6=gw",
            "host": "gw4=gw lan4=lan lan6=gw lo4=gw lo6=gw own4=gw shut4=gw",
            "neighbour": "gw4=neighbour lan4=neighbour lan6=gw ll6=gw",
            "far": "lan4=far lan6=gw",
        },
    ),
    Scene(
        name="a network",
        create=_BOTH,
        reached={
            "self": "far4=lan far6=lan lan4=gw lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw4=gw gw6=gw lan4=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "host": (
                "gw4=gw gw6=gw lan4=lan lan6=lan lo4=gw lo6=gw own4=gw own6=gw shut4=gw shut6=gw"
            ),
            "neighbour": "gw4=neighbour gw6=neighbour lan4=neighbour lan6=neighbour ll6=gw",
            "far": "lan4=far lan6=far",
        },
    ),
    Scene(
        name="a network of IPv4",
        create=_SUBNET4,
        reached={
            "self": "far4=lan lan4=gw out4=lan own4=self",
            "mate": "gw4=gw lan4=gw own4=mate shut4=mate",
            "stranger": "gw4=gw lan4=gw lan6=gw",
            "host": "gw4=gw lan4=lan lan6=gw lo4=gw lo6=gw own4=gw shut4=gw",
            "neighbour": "gw4=neighbour lan4=neighbour lan6=gw ll6=gw",
            "far": "lan4=far lan6=gw",
        },
    ),
    Scene(
        name="a network of IPv6",
        create=("--ipv4=false", *_SUBNET6),
        reached={
            "self": "far6=lan lan6=gw out6=lan own6=self",
            "mate": "gw6=gw lan6=gw own6=mate shut6=mate",
            "stranger": "gw6=gw lan6=gw",
            "host": "gw6=gw lan6=lan lo6=gw own6=gw shut6=gw",
            "neighbour": "gw6=neighbour lan6=neighbour ll6=gw",
            "far": "lan6=far",
        },
    ),
    Scene(
        name="at 0.0.0.0",
        create=_BOTH,
        publish=(f"0.0.0.0:{PORT}:80",),
        reached={
            "self": "far4=lan far6=lan lan4=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw4=gw lan4=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw lan4=gw",
            "host": "gw4=gw lan4=lan lo4=gw own4=gw own6=gw shut4=gw shut6=gw",
            "neighbour": "gw4=neighbour lan4=neighbour",
            "far": "lan4=far",
        },
    ),
    Scene(
        name="at ::",
        create=_BOTH,
        publish=(f"[::]:{PORT}:80",),
        reached={
            "self": "far4=lan far6=lan lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw6=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw6=gw lan6=gw",
            "host": "gw6=gw lan6=lan lo6=gw own4=gw own6=gw shut4=gw shut6=gw",
            "neighbour": "gw6=neighbour lan6=neighbour ll6=gw",
            "far": "lan6=far",
        },
    ),
    Scene(
        name="at :: to IPv4",
        create=_SUBNET4,
        publish=(f"[::]:{PORT}:80",),
        reached={
            "self": "far4=lan out4=lan own4=self",
            "mate": "own4=mate shut4=mate",
            "stranger": "lan6=gw",
            "host": "lan6=gw lo6=gw own4=gw shut4=gw",
            "neighbour": "lan6=gw ll6=gw",
            "far": "lan6=gw",
        },
    ),
    Scene(
        name="at 127.0.0.1",
        create=_BOTH,
        publish=(f"127.0.0.1:{PORT}:80",),
        reached={
            "self": "far4=lan far6=lan out4=lan out6=lan own4=self own6=self",
            "mate": "own4=mate own6=mate shut4=mate shut6=mate",
            "host": "lo4=gw own4=gw own6=gw shut4=gw shut6=gw",
        },
    ),
    Scene(
        name="at ::1",
        create=_BOTH,
        publish=(f"[::1]:{PORT}:80",),
        reached={
            "self": "far4=lan far6=lan out4=lan out6=lan own4=self own6=self",
            "mate": "own4=mate own6=mate shut4=mate shut6=mate",
            "host": "lo6=gw own4=gw own6=gw shut4=gw shut6=gw",
        },
    ),
    Scene(
        name="at ::1 to IPv4",
        create=_SUBNET4,
        publish=(f"[::1]:{PORT}:80",),
        reached={
            "self": "far4=lan out4=lan own4=self",
            "mate": "own4=mate shut4=mate",
            "host": "lo6=gw own4=gw shut4=gw",
        },
    ),
    Scene(
        name="at the LAN",
        create=_BOTH,
        publish=(f"{LAN4}:{PORT}:80", f"[{LAN6}]:{PORT}:80"),
        reached={
            "self": "far4=lan far6=lan lan4=gw lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "lan4=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "lan4=gw lan6=gw",
            "host": "lan4=lan lan6=lan own4=gw own6=gw shut4=gw shut6=gw",
            "neighbour": "lan4=neighbour lan6=neighbour",
            "far": "lan4=far lan6=far",
        },
    ),
    Scene(
        name="a range",
        create=_BOTH,
        publish=("26100-26119:26100-26119",),
        port=26117,
        inner=26117,
        reached={
            "self": "far4=lan far6=lan lan4=gw lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw4=gw gw6=gw lan4=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "host": (
                "gw4=gw gw6=gw lan4=lan lan6=lan lo4=gw lo6=gw own4=gw own6=gw shut4=gw shut6=gw"
            ),
            "neighbour": "gw4=neighbour gw6=neighbour lan4=neighbour lan6=neighbour ll6=gw",
            "far": "lan4=far lan6=far",
        },
    ),
    Scene(
        name="a range that shifts",
        create=_BOTH,
        publish=("26100-26119:80-99",),
        port=26117,
        inner=97,
        reached={
            "self": "far4=lan far6=lan lan4=gw lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw4=gw gw6=gw lan4=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "host": (
                "gw4=gw gw6=gw lan4=lan lan6=lan lo4=gw lo6=gw own4=gw own6=gw shut4=gw shut6=gw"
            ),
            "neighbour": "gw4=neighbour gw6=neighbour lan4=neighbour lan6=neighbour ll6=gw",
            "far": "lan4=far lan6=far",
        },
    ),
    Scene(
        name="nothing published",
        create=_BOTH,
        publish=(),
        reached={
            "self": "far4=lan far6=lan out4=lan out6=lan own4=self own6=self",
            "mate": "own4=mate own6=mate shut4=mate shut6=mate",
            "host": "own4=gw own6=gw shut4=gw shut6=gw",
        },
    ),
    Scene(
        name="internal",
        create=(*_BOTH, "--internal"),
        reached={
            "self": "own4=self own6=self",
            "mate": "own4=mate own6=mate shut4=mate shut6=mate",
            "host": "own4=gw own6=gw shut4=gw shut6=gw",
        },
    ),
    Scene(
        name="without icc",
        create=(*_BOTH, f"-o={_BRIDGE}.enable_icc=false"),
        reached={
            "self": "far4=lan far6=lan lan4=gw lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "stranger": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "host": (
                "gw4=gw gw6=gw lan4=lan lan6=lan lo4=gw lo6=gw own4=gw own6=gw shut4=gw shut6=gw"
            ),
            "neighbour": "gw4=neighbour gw6=neighbour lan4=neighbour lan6=neighbour ll6=gw",
            "far": "lan4=far lan6=far",
        },
    ),
    Scene(
        name="internal without icc",
        create=(*_BOTH, "--internal", f"-o={_BRIDGE}.enable_icc=false"),
        reached={
            "self": "own4=self own6=self",
            "host": "own4=gw own6=gw shut4=gw shut6=gw",
        },
    ),
    Scene(
        name="without masquerade",
        create=(*_BOTH, f"-o={_BRIDGE}.enable_ip_masquerade=false"),
        reached={
            "self": "lan4=gw lan6=gw own4=self own6=self",
            "mate": "gw4=gw gw6=gw lan4=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "host": (
                "gw4=gw gw6=gw lan4=lan lan6=lan lo4=gw lo6=gw own4=gw own6=gw shut4=gw shut6=gw"
            ),
            "neighbour": "gw4=neighbour gw6=neighbour lan4=neighbour lan6=neighbour ll6=gw",
            "far": "lan4=far lan6=far",
        },
        beyond={"self": "lan4=gw lan6=gw out4=self out6=self own4=self own6=self"},
        reason="dockerd's rule against asking a container directly drops the answers to it too",
    ),
    Scene(
        name="bound to loopback",
        create=(*_BOTH, f"-o={_BRIDGE}.host_binding_ipv4=127.0.0.1"),
        reached={
            "self": "far4=lan far6=lan out4=lan out6=lan own4=self own6=self",
            "mate": "own4=mate own6=mate shut4=mate shut6=mate",
            "host": "lo4=gw own4=gw own6=gw shut4=gw shut6=gw",
        },
    ),
    Scene(
        name="nat-unprotected",
        create=(*_BOTH, *_modes("nat-unprotected")),
        reached={
            "self": "far4=lan far6=lan lan4=gw lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw4=gw gw6=gw lan4=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "host": (
                "gw4=gw gw6=gw lan4=lan lan6=lan lo4=gw lo6=gw own4=gw own6=gw shut4=gw shut6=gw"
            ),
            "neighbour": (
                "gw4=neighbour gw6=neighbour lan4=neighbour lan6=neighbour ll6=gw "
                "own4=neighbour own6=neighbour shut4=neighbour shut6=neighbour"
            ),
            "far": "lan4=far lan6=far",
        },
    ),
    Scene(
        name="routed",
        create=(*_BOTH, *_modes("routed")),
        reached={
            "self": "out4=self out6=self own4=self own6=self",
            "mate": "own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "own4=gw own6=gw",
            "host": "own4=gw own6=gw shut4=gw shut6=gw",
            "neighbour": "own4=neighbour own6=neighbour",
        },
    ),
    Scene(
        name="routed without icc",
        create=(*_BOTH, *_modes("routed"), f"-o={_BRIDGE}.enable_icc=false"),
        reached={
            "self": "out4=self out6=self own4=self own6=self",
            "stranger": "own4=gw own6=gw",
            "host": "own4=gw own6=gw shut4=gw shut6=gw",
            "neighbour": "own4=neighbour own6=neighbour",
        },
    ),
    Scene(
        name="routed over IPv6",
        create=(*_BOTH, f"-o={_BRIDGE}.gateway_mode_ipv6=routed"),
        reached={
            "self": "far4=lan lan4=gw out4=lan out6=self own4=self own6=self",
            "mate": "gw4=gw lan4=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw lan4=gw own6=gw",
            "host": "gw4=gw lan4=lan lo4=gw own4=gw own6=gw shut4=gw shut6=gw",
            "neighbour": "gw4=neighbour lan4=neighbour own6=neighbour",
            "far": "lan4=far",
        },
    ),
    Scene(
        name="routed over IPv4 alone",
        create=(*_SUBNET4, f"-o={_BRIDGE}.gateway_mode_ipv4=routed"),
        reached={
            "self": "out4=self own4=self",
            "mate": "own4=mate shut4=mate",
            "stranger": "lan6=gw own4=gw",
            "host": "lan6=gw lo6=gw own4=gw shut4=gw",
            "neighbour": "lan6=gw ll6=gw own4=neighbour",
            "far": "lan6=gw",
        },
    ),
    Scene(
        name="isolated",
        create=(*_BOTH, "--internal", *_modes("isolated")),
        reached={
            "self": "own4=self own6=self",
            "mate": "own4=mate own6=mate shut4=mate shut6=mate",
        },
    ),
    Scene(
        name="without a bridge address",
        create=(*_BOTH, f"-o={_BRIDGE}.inhibit_ipv4=true"),
        reached={
            "self": "far6=lan lan6=gw out6=lan own4=self own6=self",
            "mate": "gw6=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw6=gw lan6=gw",
            "host": "gw6=gw lan6=lan lo6=gw own6=gw shut6=gw",
            "neighbour": "gw6=neighbour lan6=neighbour ll6=gw",
            "far": "lan6=far",
        },
    ),
    Scene(
        name="a source of its own",
        create=(
            *_BOTH,
            f"-o=com.docker.network.host_ipv4={LAN4}",
            f"-o=com.docker.network.host_ipv6={LAN6}",
        ),
        reached={
            "self": "far4=lan far6=lan lan4=gw lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw4=gw gw6=gw lan4=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "host": (
                "gw4=gw gw6=gw lan4=lan lan6=lan lo4=gw lo6=gw own4=gw own6=gw shut4=gw shut6=gw"
            ),
            "neighbour": "gw4=neighbour gw6=neighbour lan4=neighbour lan6=neighbour ll6=gw",
            "far": "lan4=far lan6=far",
        },
    ),
    Scene(
        name="a trusted link",
        create=(*_BOTH, f"-o={_BRIDGE}.trusted_host_interfaces=no0:{LINK}"),
        reached={
            "self": "far4=lan far6=lan lan4=gw lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw4=gw gw6=gw lan4=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "host": (
                "gw4=gw gw6=gw lan4=lan lan6=lan lo4=gw lo6=gw own4=gw own6=gw shut4=gw shut6=gw"
            ),
            "neighbour": (
                "gw4=neighbour gw6=neighbour lan4=neighbour lan6=neighbour ll6=gw "
                "own4=neighbour own6=neighbour"
            ),
            "far": "lan4=far lan6=far",
        },
    ),
    Scene(
        name="host",
        network="host",
        publish=(),
        inner=PORT,
        reached={
            "self": "far4=lan far6=lan lan4=lan lan6=lan out4=lan out6=lan",
            "mate": "lan4=lan lan6=lan",
            "stranger": "lan4=stranger lan6=stranger",
            "host": "lan4=lan lan6=lan lo4=lo lo6=lo",
            "neighbour": "lan4=neighbour lan6=neighbour ll6=fe80::5eff:fe10:2",
            "far": "lan4=far lan6=far",
        },
    ),
    Scene(
        name="none",
        network="none",
        publish=(),
    ),
    Scene(
        name="container:",
        create=_BOTH,
        joins=True,
        reached={
            "self": "far4=lan far6=lan lan4=gw lan6=gw out4=lan out6=lan own4=self own6=self",
            "mate": "gw4=gw gw6=gw lan4=gw lan6=gw own4=mate own6=mate shut4=mate shut6=mate",
            "stranger": "gw4=gw gw6=gw lan4=gw lan6=gw",
            "host": (
                "gw4=gw gw6=gw lan4=lan lan6=lan lo4=gw lo6=gw own4=gw own6=gw shut4=gw shut6=gw"
            ),
            "neighbour": "gw4=neighbour gw6=neighbour lan4=neighbour lan6=neighbour ll6=gw",
            "far": "lan4=far lan6=far",
        },
    ),
)
