"""The ipvlan driver: a container's link shares its parent's MAC address.

In mode l2 it is on the network of its parent. In the modes l3 and l3s the parent routes: nothing is
looked for on the link, so the default route leads to the link by no gateway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.errors import EngineError
from engine.network import sandbox
from engine.network.parent import BadParent, ParentDriver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.network.model import Endpoint, Network

NAME: Final = "ipvlan"
MODE: Final = "ipvlan_mode"
FLAG: Final = "ipvlan_flag"

_MODES: Final = {"l2": 0, "l3": 1, "l3s": 2}
_FLAGS: Final = {"bridge": 0, "private": 1, "vepa": 2}
"""IPVLAN_MODE_* and IPVLAN_F_* of <linux/if_link.h>"""


class Driver(ParentDriver):
    name = NAME
    prefix = "di-"

    def check(self, options: Mapping[str, str]) -> None:
        if _mode(options) not in _MODES:
            raise EngineError(
                f"requested ipvlan mode '{options[MODE]}' is not valid, 'l2' mode is the ipvlan "
                "driver default"
            )
        if _flag(options) not in _FLAGS:
            raise EngineError(
                f"requested ipvlan flag '{options[FLAG]}' is not valid, 'bridge' is the ipvlan "
                "driver default"
            )
        super().check(options)

    def check_beside(self, network: Network, other: Network) -> None:
        raise BadParent(
            f"network {self.prefix}{other.id[:12]} is already using parent interface {network.link}"
        )

    def needs_gateway(self, network: Network, version: int) -> bool:
        return not _is_routed(network) and super().needs_gateway(network, version)

    def default_route(self, network: Network, endpoint: Endpoint, version: int) -> str:
        if not _is_routed(network):
            return super().default_route(network, endpoint, version)
        if not self.leads_out(network):
            return ""
        return endpoint.ipv4_address if version == 4 else endpoint.ipv6_address

    def mac(self, asked: str) -> str:
        if asked:
            raise EngineError("ipvlan interfaces do not support custom mac address assignment")
        return ""

    def has_gateway(self, network: Network) -> bool:
        return not _is_routed(network)

    def via(self, network: Network, index: int) -> sandbox.OnParent:
        return sandbox.OnParent(
            kind=NAME,
            parent=network.link,
            index=index,
            mode=_MODES[_mode(network.options)],
            flags=_FLAGS[_flag(network.options)],
            has_mac=False,
        )


def _mode(options: Mapping[str, str]) -> str:
    return options.get(MODE, "") or "l2"


def _flag(options: Mapping[str, str]) -> str:
    return options.get(FLAG, "") or "bridge"


def _is_routed(network: Network) -> bool:
    return _mode(network.options) != "l2"
