"""What a request to create a network comes to. Pure; sentences are Docker's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from engine import ids, literals
from engine.errors import Forbidden, InvalidParameter, NotFound
from engine.ids import NetworkId
from engine.network import drivers, host, ipam, none
from engine.network.model import IPAM, PREDEFINED, Network, NetworkRequest

if TYPE_CHECKING:
    from engine.config import EngineConfig


_ALIAS = "default"
"""What a container may call the default network, so no other is called that."""
_ENABLE = ("com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6")


class NetworkPredefined(Forbidden):
    def __init__(self, name: str) -> None:
        super().__init__(f"operation is not permitted on predefined {name} network ")


class NoSuchTemplate(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f'configuration network "{name}" does not exist')


def check(request: NetworkRequest) -> None:
    """Raises what is wrong with the request alone, in dockerd's order."""
    if request.name in (*PREDEFINED, _ALIAS):
        raise NetworkPredefined(request.name)
    drivers.check_swarm(request.driver)
    ipam.check(request.ipam, enable_ipv6=bool(request.enable_ipv6))
    if not request.name.strip():
        raise InvalidParameter("invalid name: name is empty")
    _check_configuration(request)
    if request.is_config_only:
        return
    if not drivers.named(request.driver or drivers.DEFAULT).has_many:
        raise host.OneInstance(request.driver)
    if request.is_ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if request.scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")


def with_families(request: NetworkRequest, config: EngineConfig) -> NetworkRequest:
    """The request with the families it comes to: what it says, else what its options or the
    daemon's say (`_ENABLE`).

    An option that is overridden goes. Raises InvalidParameter.
    """
    if request.config_from:
        return request
    driver = request.driver or drivers.DEFAULT
    given = {**config.default_network_opts.get(driver, {}), **request.options}
    asked = dict(zip(_ENABLE, (request.enable_ipv4, request.enable_ipv6), strict=True))
    found = [
        _boolean(name, given[name]) if is_on is None and name in given else is_on
        for name, is_on in asked.items()
    ]
    return msgspec.structs.replace(
        request,
        enable_ipv4=found[0],
        enable_ipv6=found[1],
        options={n: text for n, text in request.options.items() if asked.get(n) is None},
    )


def _boolean(name: str, text: str) -> bool:
    try:
        return literals.boolean(text)
    except ValueError:
        raise InvalidParameter(f'driver-opt "{name}" is not a valid bool') from None


def _check_configuration(request: NetworkRequest) -> None:
    """Raises what does not go together with a network of configuration alone."""
    if request.is_config_only and (
        request.is_ingress or request.is_internal or request.is_attachable or request.scope
    ):
        raise Forbidden(
            "configuration network can only contain network specific fields. Network operator "
            "fields like [ ingress | internal | attachable | scope ] are not supported."
        )
    if not request.config_from:
        return
    if request.is_config_only:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    if _says_something(request):
        raise Forbidden(
            "user specified configurations are not supported if the network depends on a "
            "configuration network"
        )
    if request.options:
        raise Forbidden(
            "network driver options are not supported if the network depends on a configuration "
            "network"
        )


def _says_something(request: NetworkRequest) -> bool:
    asked = request.ipam or IPAM()
    is_usual = request.enable_ipv4 is not False and not request.enable_ipv6
    has_ipam = asked.driver not in ("", ipam.DEFAULT_DRIVER) or asked.options or asked.config
    return not is_usual or bool(has_ipam) or bool(request.labels)


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
    usual = {} if request.config_from else config.default_network_opts.get(driver, {})
    options = {**usual, **source.options}
    network = new(request.name, none.NAME if request.is_config_only else driver)
    kind = drivers.of(network)
    kind.check(options)
    if source.ipam is not None and not request.is_config_only:
        ipam.check_driver(source.ipam)
    return msgspec.structs.replace(
        network,
        scope=request.scope or "local",
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
