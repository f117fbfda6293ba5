"""`docker ps`: filters over what is in memory, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import filters as filtering
from engine.container.model import HealthStatus, Status
from engine.container.state import ACTIVE, ALIVE
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.container.model import Container, ListQuery
    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.image.model import Image

    Filter = Callable[[Container], bool]

# `isolation` tells Windows containers apart; elsewhere it is known and means nothing.
KNOWN = frozenset(
    {
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    }
)
_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")


def select(rooms: Rooms, query: ListQuery) -> list[Handle]:
    """The containers a query asks for, newest first; raises InvalidParameter or NoSuchContainer."""
    filters = query.filters
    for name in filters:
        if name not in KNOWN:
            raise InvalidParameter(f"invalid filter '{name}'")
    tests = _tests(rooms, filters)
    includes_stopped = query.all or query.limit > 0 or bool(filters.get("status"))
    newest = sorted(rooms.store.all(), key=lambda h: h.container.created_ns, reverse=True)
    bounds = _bounds(rooms, filters)
    chosen = [
        handle
        for handle in newest
        if (includes_stopped or handle.state.status in ACTIVE)
        and bounds.contain(handle.container)
        and all(test(handle.container) for test in tests)
    ]
    return chosen[: query.limit] if query.limit > 0 else chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """`before` and `since` name containers, which need not be in the list themselves."""

    before_ns: int | None
    since_ns: int | None

    def contain(self, container: Container) -> bool:
        if self.before_ns is not None and container.created_ns >= self.before_ns:
            return False
        return self.since_ns is None or container.created_ns > self.since_ns


def _bounds(rooms: Rooms, filters: Mapping[str, tuple[str, ...]]) -> _Bounds:
    return _Bounds(
        before_ns=_created(rooms, filters.get("before", ())),
        since_ns=_created(rooms, filters.get("since", ())),
    )


def _created(rooms: Rooms, refs: tuple[str, ...]) -> int | None:
    created = [rooms.store.find(ref).container.created_ns for ref in refs]
    return created[-1] if created else None


def _tests(rooms: Rooms, filters: Mapping[str, tuple[str, ...]]) -> list[Filter]:
    makers: dict[str, Callable[[tuple[str, ...]], Filter]] = {
        "id": _by_id,
        "name": _by_name,
        "label": _by_label,
        "status": _by_status,
        "exited": _by_exit_code,
        "health": _by_health,
        "volume": _by_volume,
        "network": _by_network,
        "publish": _by_published_port,
        "expose": _by_exposed_port,
        "ancestor": lambda values: _by_ancestor(rooms, values),
    }
    tests = [make(filters[name]) for name, make in makers.items() if filters.get(name)]
    if filtering.truth(filters, "is-task"):
        tests.append(lambda _: False)  # there are no tasks of a swarm
    return tests


def _by_id(values: tuple[str, ...]) -> Filter:
    return lambda c: any(c.id.startswith(value) for value in values)


def _by_name(values: tuple[str, ...]) -> Filter:
    """Regular expressions, tried with and without the leading slash."""
    return lambda c: any(filtering.matches_text(values, name) for name in (c.name, f"/{c.name}"))


def _by_label(values: tuple[str, ...]) -> Filter:
    return lambda c: filtering.matches_labels(values, c.config.labels)


def _by_status(values: tuple[str, ...]) -> Filter:
    for value in values:
        if value not in _STATES:
            raise InvalidParameter(
                f"invalid filter 'status={value}': invalid value for state ({value}): "
                f"must be one of {', '.join(_STATES)}"
            )
    wanted = {Status(value) for value in values}
    return lambda c: c.state.status in wanted


def _by_exit_code(values: tuple[str, ...]) -> Filter:
    wanted: set[int] = set()
    for value in values:
        try:
            wanted.add(int(value))
        except ValueError as exc:
            raise InvalidParameter(
                f"invalid filter 'exited={value}': "
                f'strconv.Atoi: parsing "{value}": invalid syntax'
            ) from exc
    return lambda c: (
        c.state.exit_code in wanted and c.state.status not in ACTIVE and c.state.started_ns > 0
    )


def _by_health(values: tuple[str, ...]) -> Filter:
    known = tuple(HealthStatus)
    for value in values:
        if value not in known:
            raise InvalidParameter(
                f"invalid filter 'health={value}': invalid value for health ({value}): "
                f"must be one of {', '.join(known)}"
            )
    return lambda c: (c.state.health.status if c.state.health else HealthStatus.NONE) in values


def _by_volume(values: tuple[str, ...]) -> Filter:
    """By name, or by where it is mounted from or to."""
    return lambda c: any(
        value in (p.name, p.source, p.destination) for p in c.mount_points for value in values
    )


def _by_network(values: tuple[str, ...]) -> Filter:
    return lambda c: any(
        value == e.network_name or (e.network_id and e.network_id.startswith(value))
        for e in c.endpoints
        for value in values
        if value
    )


def _by_published_port(values: tuple[str, ...]) -> Filter:
    """The host's ports."""
    wanted = {port for value in values for port in _ports("publish", value)}
    return lambda c: any((p.host_port, p.protocol) in wanted for p in c.ports if p.host_port)


def _by_exposed_port(values: tuple[str, ...]) -> Filter:
    """The container's own ports, which it has while it runs."""
    wanted = {port for value in values for port in _ports("expose", value)}
    return lambda c: (
        c.state.status in ALIVE and any(_port_of(text) in wanted for text in c.config.exposed_ports)
    )


def _port_of(text: str) -> tuple[int, str]:
    number, _, protocol = text.partition("/")
    return (int(number) if number.isdecimal() else -1), protocol or "tcp"


def _ports(kind: str, value: str) -> Iterable[tuple[int, str]]:
    """A port or a range of them, with its protocol (moby daemon/list.go portOp)."""
    if ":" in value:
        raise InvalidParameter(f"filter for '{kind}' should not contain ':': {value}")
    numbers, _, protocol = value.partition("/")
    try:
        low, high = _range(numbers)
    except ValueError as exc:
        raise InvalidParameter(f"error while looking up for {kind} {value}: {exc}") from exc
    return [(number, protocol or "tcp") for number in range(low, high + 1)]


def _range(text: str) -> tuple[int, int]:
    """ValueError with the sentence of go-connections' ParsePortRange."""
    if not text:
        raise ValueError("Empty string specified for ports.")
    first, dash, last = text.partition("-")
    low = _port_number(first)
    high = _port_number(last) if dash else low
    if high < low:
        raise ValueError(f"Invalid range specified for the Port: {text}")
    return low, high


def _port_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if len(text.lstrip("0")) > 5 or int(text) > 65535:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def _find_image(rooms: Rooms, ref: str) -> Image | None:
    """What is no reference at all names no image, as in dockerd."""
    try:
        return rooms.images.find(ref)
    except InvalidParameter:
        return None


def _by_ancestor(rooms: Rooms, values: tuple[str, ...]) -> Filter:
    """The image named, or one that was made from it: its layers begin with the same."""
    ancestors = [image for value in values if (image := _find_image(rooms, value)) is not None]
    wanted = {image.id for image in ancestors}
    stacks = [image.diff_ids for image in ancestors if image.diff_ids]
    for image in rooms.images.all():
        if any(image.diff_ids[: len(stack)] == stack and image.parent for stack in stacks):
            wanted.add(image.id)
    return lambda c: c.image_id in wanted
