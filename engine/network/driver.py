"""What a network driver does. Its methods say by themselves what of a network needs a kernel.

A driver has no state: all that it is asked for follows from the network, whose row the catalogue
keeps. The defaults are those of a driver with nothing on the host: no link, no subnet, no port.
Which drivers there are, `drivers` says.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Protocol

from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.network import sandbox
    from engine.network.firewall import Bridge
    from engine.network.model import Endpoint, Network


class Driver(Protocol):
    """`name` is what clients call it."""

    name: str

    has_link: bool = False
    """Whether a network of it hangs on a link of the host, whose name is `Network.link`."""
    has_many: bool = True
    """Whether there may be more than the one network of it that always is."""
    has_ports: bool = False
    """Whether ports of its containers are published."""
    is_host_gateway: bool = False
    """Whether the gateway of its networks is the host."""
    is_host_namespace: bool = False
    """Whether its containers live in the host's network namespace."""

    # Making networks. What may be asked of a network is decided before anything is taken.

    def check(self, options: Mapping[str, str]) -> None:
        """Raises what is wrong with the options alone, in dockerd's words."""
        del options

    def check_made(self, network: Network, others: Iterable[Network]) -> None:
        """Raises what is wrong with a network that has its subnets, `others` being there."""
        del network, others

    def link(self, options: Mapping[str, str], network_id: str, instance: str) -> str:
        """What the link on the host is called."""
        del options, network_id, instance
        return ""

    def needs_gateway(self, network: Network, version: int) -> bool:
        """Whether its subnets of a family are to have gateways, also where nobody named one."""
        del network, version
        return False

    def leads_out(self, network: Network) -> bool:
        """Whether a container may have its default route there."""
        del network
        return False

    def has_gateway(self, network: Network) -> bool:
        """Whether who may have the default route there has it by the subnet's gateway."""
        del network
        return True

    def setup(self, network: Network, instance: str, *, is_new: bool) -> int:
        """Make the link as it should be, whatever is there; its index. Blocks.

        Running containers notice nothing. Raises OSError, WharfError.
        """
        del network, instance, is_new
        return 0

    def teardown(self, network: Network, instance: str) -> None:
        """Remove what `setup` made; what is gone is no error. Blocks. Raises OSError."""
        del network, instance

    def rules(self, network: Network) -> Bridge | None:
        """What the firewall is to know of the network, if it is to know of it."""
        del network
        return None

    # Standing on them

    def check_disconnect(self) -> None:
        """Raises where nobody leaves such a network."""
        return None

    def mac(self, asked: str) -> str:
        """The MAC address of an endpoint; `asked` may be "". Raises EngineError."""
        del asked
        return ""

    def default_route(self, network: Network, endpoint: Endpoint, version: int) -> str:
        """The gateway of an endpoint that leads out by one.

        The endpoint's own address where the route leads to the link alone, "" where none does.
        """
        gateway = endpoint.gateway if version == 4 else endpoint.ipv6_gateway
        return gateway if self.leads_out(network) else ""

    def via(self, network: Network, index: int) -> sandbox.Bridged | sandbox.OnParent | None:
        """How a container's interface hangs on the network's link, whose index that is."""
        del network, index
        return None

    def interface_prefix(self, network: Network) -> str:
        """With what the names of interfaces begin that nobody chose; "" for eth."""
        del network
        return ""

    def is_announced(self, network: Network) -> bool:
        """Whether neighbours are told of a container's addresses when it comes."""
        del network
        return True

    def routed(self, network: Network) -> frozenset[int]:
        """The families whose published ports are asked for at the containers' own addresses."""
        del network
        return frozenset()

    def is_trusting(self, network: Network) -> bool:
        """Whether there are links behind which they may be asked for there all the same."""
        del network
        return False

    def binding(self, network: Network) -> str:
        """The address that ports are published on where none was named; "" for the daemon's."""
        del network
        return ""


def check_pools(network: Network) -> None:
    """Raises where a network is to have addresses of a family and has none to give."""
    found = {6 if ":" in s.subnet else 4 for s in network.subnets}
    for version, is_enabled in ((4, network.enable_ipv4), (6, network.enable_ipv6)):
        if is_enabled and version not in found:
            raise InvalidParameter(f"ipv{version} pool is empty")


def random_mac() -> str:
    """A locally administered unicast address."""
    first, *rest = secrets.token_bytes(6)
    return bytes(((first & 0xFC) | 0x02, *rest)).hex(":")
