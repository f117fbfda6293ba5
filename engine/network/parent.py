"""Links of the host that macvlan and ipvlan networks hang on, their *parents*.

A parent is a link that is there (eth0), or one that is made: an 802.1Q sub-interface (eth0.50) of
one that is there, or a dummy where none was named. Those have the names that Docker gives them, so
what tells them from another engine's is an alias, which they get before the name. What was made
goes with its last network; what was there stays. Sentences are Docker's (libnetwork/drivers).
"""

from __future__ import annotations

import errno
import re
import socket
from typing import TYPE_CHECKING, Final

from engine.errors import EngineError
from engine.linux import iproute, oserror
from engine.network import driver, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.network.model import Network

PARENT: Final = "parent"
_VLAN_IDS: Final = range(1, 4095)  # IEEE 802.1Q §9.6
_NUMBER: Final = re.compile(r"[+-]?[0-9]+")  # of Go's strconv.Atoi


class BadParent(EngineError):
    """Why a link of that name cannot be the parent."""


class ParentDriver(driver.Driver):
    """What the two have in common; `prefix` is that of the dummies' names."""

    prefix: str
    has_link = True

    def link(self, options: Mapping[str, str], network_id: str, instance: str) -> str:
        del instance
        return options.get(PARENT, "") or f"{self.prefix}{network_id[:12]}"

    def check(self, options: Mapping[str, str]) -> None:
        if options.get(PARENT) == "lo":
            raise BadParent(f"loopback interface is not a valid {self.name} parent link")

    def check_made(self, network: Network, others: Iterable[Network]) -> None:
        driver.check_pools(network)
        for other in others:
            if other.driver == self.name and other.link == network.link:
                self.check_beside(network, other)

    def check_beside(self, network: Network, other: Network) -> None:
        """Raises where the two cannot have the same parent."""
        del network, other

    def is_internal(self, network: Network) -> bool:
        """Also a dummy leads nowhere, though the network does not say so."""
        return network.is_internal or not network.options.get(PARENT)

    def needs_gateway(self, network: Network, version: int) -> bool:
        del version
        return not self.is_internal(network)

    def leads_out(self, network: Network) -> bool:
        return not self.is_internal(network)

    def setup(self, network: Network, instance: str, *, is_new: bool) -> int:
        if (index := _index(network.link)) is not None:
            return index
        try:
            self._make(network, instance)
        except BadParent:
            if is_new:
                raise
        if (index := _index(network.link)) is None:
            raise BadParent(
                f"the requested parent interface {network.link} was not found on the Docker host"
            )
        return index

    def _make(self, network: Network, instance: str) -> None:
        name = network.link
        temporary, alias = sandbox.link_name(instance, network.id), sandbox.mark(instance)
        if name == f"{self.prefix}{network.id[:12]}":
            self._add_dummy(name, temporary=temporary, alias=alias)
        else:
            self._add_vlan(name, temporary=temporary, alias=alias)

    def _add_dummy(self, name: str, *, temporary: str, alias: str) -> None:
        try:
            iproute.add_dummy(name, temporary=temporary, alias=alias)
        except OSError as error:
            raise BadParent(oserror.reason(error)) from error

    def _add_vlan(self, name: str, *, temporary: str, alias: str) -> None:
        link, vlan_id = parse_vlan(name)
        try:
            iproute.add_vlan(name, link=link, vlan_id=vlan_id, temporary=temporary, alias=alias)
        except OSError as error:
            if error.errno == errno.EEXIST and _index(name) is not None:
                return  # for another network at the same time
            what = f"failed to create {name} vlan link:"
            if error.errno == errno.ENETDOWN:
                what = f"failed to enable {name} the {self.name} parent link"
            raise BadParent(f"{what} {oserror.reason(error)}") from error

    def teardown(self, network: Network, instance: str) -> None:
        if _index(network.link) is not None:
            iproute.delete_aliased(network.link, sandbox.mark(instance))


def parse_vlan(name: str) -> tuple[str, int]:
    """The link and the VLAN id in the name of a sub-interface that is to be made.

    Raises BadParent; a link that is not there is a fault as well.
    """
    if "." not in name:
        raise BadParent(f"invalid subinterface vlan name {name}, example formatting is eth0.10")
    link, _, number = name.partition(".")
    if "." in number:
        raise BadParent(
            "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead "
            f"received {name}"
        )
    if not _NUMBER.fullmatch(number) or not -(2**63) <= int(number) < 2**63:
        raise BadParent(f"unable to parse a valid vlan id from: {number} (ex. eth0.10 for vlan 10)")
    if _index(link) is None:
        raise BadParent(f"-o parent interface was not found on the host: {link}")
    if int(number) not in _VLAN_IDS:
        raise BadParent(f"vlan id must be between 1-4094, received: {int(number)}")
    return link, int(number)


def _index(name: str) -> int | None:
    """Of the link of that very name; it may be anything that a user wrote."""
    return next((index for index, found in socket.if_nameindex() if found == name), None)
