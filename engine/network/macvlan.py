"""The macvlan driver: a container's link has a MAC address of its own on the network of its parent.

The host itself is not reached, nor are ports published: who is on that network finds the container
by its address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.errors import EngineError
from engine.network import driver, sandbox
from engine.network.parent import BadParent, ParentDriver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.network.model import Network

NAME: Final = "macvlan"
MODE: Final = "macvlan_mode"

_MODES: Final = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
"""MACVLAN_MODE_* of <linux/if_link.h>"""
_PASSTHRU: Final = "passthru"


class Driver(ParentDriver):
    name = NAME
    prefix = "dm-"

    def check(self, options: Mapping[str, str]) -> None:
        if _mode(options) not in _MODES:
            raise EngineError(
                f"requested macvlan mode '{options[MODE]}' is not valid, 'bridge' mode is the "
                "macvlan driver default"
            )
        super().check(options)

    def check_beside(self, network: Network, other: Network) -> None:
        if _mode(network.options) == _PASSTHRU:
            raise BadParent(
                f"cannot use mode passthru, macvlan network {other.id} is already using parent "
                f"interface {network.link}"
            )
        if _mode(other.options) == _PASSTHRU:
            raise BadParent(
                f"macvlan network {other.id} is already using parent interface {network.link} in "
                "mode passthru"
            )

    def mac(self, asked: str) -> str:
        return asked or driver.random_mac()

    def via(self, network: Network, index: int) -> sandbox.OnParent:
        mode = _MODES[_mode(network.options)]
        return sandbox.OnParent(kind=NAME, parent=network.link, index=index, mode=mode)


def _mode(options: Mapping[str, str]) -> str:
    return options.get(MODE, "") or "bridge"
