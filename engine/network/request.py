"""What a request to create a network comes to. Pure; sentences are Docker's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from engine import ids
from engine.errors import Forbidden, InvalidParameter, NotFound
from engine.ids import NetworkId
from engine.network import drivers, host, ipam, none
from engine.network.model import IPAM, PREDEFINED, Network, NetworkRequest

if TYPE_CHECKING:
    from engine.config import EngineConfig


class NetworkPredefined(Forbidden):
    def __init__(self, name: str) -> None:
        super().__init__(f"operation is not permitted on predefined {name} network ")


class NoSuchTemplate(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f'configuration network "{name}" does not exist')


def check(request: NetworkRequest) -> None:
    """Raises what is wrong with the request alone, in dockerd's order."""
    if request.name in PREDEFINED:
        raise NetworkPredefined(request.name)
    drivers.check_swarm(request.driver)
    ipam.check(request.ipam, enable_ipv6=bool(request.enable_ipv6))
    if not request.name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if request.is_config_only:
        return
    if not drivers.named(request.driver or drivers.DEFAULT).has_many:
        raise host.OneInstance(request.driver)
    if request.is_ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if request.scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")


def new(name: str, driver: str) -> Network:
    return Network(
        id=NetworkId(ids.generate()), name=name, created_ns=time.time_ns(), driver=driver
    )


def compose(request: NetworkRequest, template: Network | None, config: EngineConfig) -> Network:
    """The network as asked for, with a new id and no subnets yet.

    `template` is the configuration-only network it is made after, where the request names one.
    """
    if request.config_from and (template is None or not template.is_config_only):
        raise NoSuchTemplate(request.config_from)
    source = _after(request, template) if template else request
    driver = request.driver or drivers.DEFAULT
    options = {**config.default_network_opts.get(driver, {}), **source.options}
    network = new(request.name, none.NAME if request.is_config_only else driver)
    kind = drivers.of(network)
    kind.check(options)
    if source.ipam is not None:
        ipam.check_driver(source.ipam)
    return msgspec.structs.replace(
        network,
        enable_ipv4=source.enable_ipv4 is not False,
        enable_ipv6=bool(source.enable_ipv6),
        ipam=source.ipam or IPAM(),
        is_internal=source.is_internal,
        is_attachable=request.is_attachable,
        is_config_only=request.is_config_only,
        config_from=request.config_from,
        options=options,
        labels=source.labels,
        link=kind.link(options, network.id, config.instance),
    )


def _after(request: NetworkRequest, template: Network) -> NetworkRequest:
    return msgspec.structs.replace(
        request,
        ipam=template.ipam,
        options=template.options,
        labels={**template.labels, **request.labels},
        enable_ipv4=template.enable_ipv4,
        enable_ipv6=template.enable_ipv6,
        is_internal=template.is_internal,
    )
