"""Networks, between the API's shapes and the engine's model. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat.wire import networks as wire
from compat.wire.base import UNSET
from engine import timestamp
from engine.network import model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msgspec import UnsetType


def request(body: wire.NetworkCreateRequest) -> model.NetworkRequest:
    return model.NetworkRequest(
        name=body.name,
        driver=body.driver,
        enable_ipv4=body.enable_ipv4,
        enable_ipv6=body.enable_ipv6,
        ipam=None if body.ipam is None else _ipam_request(body.ipam),
        is_internal=body.internal,
        is_attachable=body.attachable,
        is_ingress=body.ingress,
        is_config_only=body.config_only,
        config_from="" if body.config_from is None else body.config_from.network,
        scope=body.scope,
        options=body.options or {},
        labels=body.labels or {},
    )


def _ipam_request(sent: wire.IPAM) -> model.IPAM:
    return model.IPAM(
        driver=sent.driver or "default",
        options=sent.options,
        config=tuple(
            model.Subnet(
                subnet=_text(c.subnet),
                ip_range=_text(c.ip_range),
                gateway=_text(c.gateway),
                aux_addresses={} if c.auxiliary_addresses is UNSET else dict(c.auxiliary_addresses),
            )
            for c in sent.config or ()
        ),
    )


def _text(sent: str | UnsetType) -> str:
    return "" if sent is UNSET else sent


def network(view: model.NetworkView, *, with_containers: bool) -> wire.NetworkInspectResponse:
    kept = view.network
    return wire.NetworkInspectResponse(
        name=kept.name,
        id=kept.id,
        created=timestamp.format_ns(kept.created_ns),
        scope=kept.scope,
        driver=kept.driver,
        enable_ipv4=kept.enable_ipv4,
        enable_ipv6=kept.enable_ipv6,
        ipam=_ipam(kept),
        internal=kept.is_internal,
        attachable=kept.is_attachable,
        ingress=kept.is_ingress,
        config_from=wire.ConfigReference(network=kept.config_from),
        config_only=kept.is_config_only,
        containers={m.container_id: _member(m) for m in view.members} if with_containers else {},
        options=kept.options,
        labels=kept.labels,
    )


def _ipam(kept: model.Network) -> wire.IPAM:
    """What was asked for; behind it, for a family of which nothing was, what was given."""
    asked = {version: _of_family(kept.ipam.config, version) for version in (4, 6)}
    given = [_of_family(kept.subnets, version) for version in (4, 6) if not asked[version]]
    found = [each for family in (*asked.values(), *given) for each in family]
    configs = tuple(
        wire.IPAMConfig(
            subnet=s.subnet or UNSET,
            ip_range=s.ip_range or UNSET,
            gateway=s.gateway or UNSET,
            auxiliary_addresses=s.aux_addresses or UNSET,
        )
        for s in found
    )
    return wire.IPAM(driver=kept.ipam.driver, options=kept.ipam.options, config=configs or None)


def _of_family(subnets: Iterable[model.Subnet], version: int) -> list[model.Subnet]:
    return [s for s in subnets if (":" in s.subnet) == (version == 6)]


def _member(m: model.Member) -> wire.EndpointResource:
    return wire.EndpointResource(
        name=m.name,
        endpoint_id=m.endpoint_id,
        mac_address=m.mac_address,
        ipv4_address=m.ipv4_address,
        ipv6_address=m.ipv6_address,
    )
