"""What each version of the API has: the one place that compares versions.

Handlers and translators speak the newest API. Here stand the versions served, and one table in
three parts that says what differs before: fields of bodies (`FIELDS`), words of a query
(`PARAMETERS`) and behaviour (`BEHAVIOURS`). `shape` makes a body older; the newest version costs
nothing. Sources: moby v28.5.2 api/server/router, and a dockerd asked at several versions.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard, TypeVar, cast

import msgspec
from msgspec import inspect

from compat.wire import containers, images, networks, system, volumes
from compat.wire.base import UNSET, Request
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

T = TypeVar("T")
Shaper: TypeAlias = "Callable[[Any], Any]"


class Version(NamedTuple):
    major: int
    minor: int
    rest: tuple[int, ...] = ()

    def __str__(self) -> str:
        return ".".join(str(part) for part in (self.major, self.minor, *self.rest))


OLDEST = Version(1, 24)
NEWEST = Version(1, 51)


class TooNew(InvalidParameter):
    def __init__(self, text: str) -> None:
        super().__init__(
            f"client version {text} is too new. Maximum supported API version is {NEWEST}"
        )


class TooOld(InvalidParameter):
    """Answered as plain text: clients that old do not read JSON errors."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"client version {text} is too old. Minimum supported API version is {OLDEST}, "
            "please upgrade your client to a newer version"
        )


@functools.lru_cache(maxsize=64)
def parse(text: str) -> Version:
    """The version that `text`, digits and dots, names. Raises TooNew, TooOld."""
    numbers = [int(part[:18]) if part else 0 for part in text.split(".")]
    while len(numbers) > 2 and numbers[-1] == 0:
        numbers.pop()
    major, minor, *rest = (*numbers, 0) if len(numbers) == 1 else numbers
    version = Version(major, minor, tuple(rest))
    if version > NEWEST:
        raise TooNew(text)
    if version < OLDEST:
        raise TooOld(text)
    return version


# Fields


@dataclass(frozen=True, slots=True)
class Since:
    """The field came with this version; before it has its default, whatever was said."""

    version: Version


@dataclass(frozen=True, slots=True)
class Until:
    """The field is `value(owner)` before this version and absent from it on."""

    version: Version
    value: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that sets the field before this version is refused with the sentence."""

    version: Version
    sentence: str


Rule: TypeAlias = Since | Until | Refused


def _v(minor: int) -> Version:
    return Version(1, minor)


def _names_only(info: Any) -> tuple[str, ...]:
    """Of "name=seccomp,profile=builtin" the name."""
    options: tuple[str, ...] = info.security_options
    return tuple(
        next((p[5:] for p in option.split(",") if p.startswith("name=")), option)
        for option in options
    )


def _tags_or_none(image: Any) -> tuple[str, ...] | None:
    return image.repo_tags or (None if image.repo_digests else ("<none>:<none>",))


def _digests_or_none(image: Any) -> tuple[str, ...] | None:
    return image.repo_digests or (None if image.repo_tags else ("<none>@<none>",))


_NEVER = "0001-01-01T00:00:00Z"

FIELDS: Mapping[type[msgspec.Struct], Mapping[str, tuple[Rule, ...]]] = {
    containers.BindOptions: {
        "non_recursive": (Since(_v(40)),),
        "create_mountpoint": (Since(_v(42)),),
        "read_only_force_recursive": (
            Refused(_v(44), "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"),
        ),
    },
    volumes.VolumeCreateRequest: {"cluster_volume_spec": (Since(_v(42)),)},
    containers.VolumeOptions: {
        "subpath": (Refused(_v(45), "VolumeOptions.Subpath needs API v1.45 or newer"),),
    },
    containers.HealthConfig: {"start_interval": (Since(_v(44)),)},
    containers.HostConfig: {
        "kernel_memory_tcp": (Since(_v(40)),),
        "console_size": (Since(_v(42)),),
        "annotations": (Since(_v(43)),),
    },
    containers.EndpointSettings: {"gw_priority": (Since(_v(48)),)},
    containers.ExecCreateRequest: {"console_size": (Since(_v(42)),)},
    containers.ExecStartRequest: {"console_size": (Since(_v(42)),)},
    containers.SummaryHostConfig: {"annotations": (Since(_v(46)),)},
    networks.NetworkCreateRequest: {"enable_ipv4": (Since(_v(48)),)},
    images.ImageSummary: {
        "repo_tags": (Until(_v(43), _tags_or_none),),
        "repo_digests": (Until(_v(43), _digests_or_none),),
        "virtual_size": (Until(_v(44), lambda image: image.size),),
        "descriptor": (Since(_v(48)),),
        "containers": (Until(_v(51), lambda image: -1),),
    },
    # Disk usage always counted what lists did not.
    images.ImageUsage: {"containers": ()},
    images.ImageInspectResponse: {
        "virtual_size": (Until(_v(44), lambda image: image.size),),
        "created": (Until(_v(44), lambda image: image.created or _NEVER),),
        "container_config": (Until(_v(45), lambda image: containers.Config()),),
        "descriptor": (Since(_v(48)),),
    },
    system.InfoResponse: {
        "security_options": (Until(_v(25), _names_only),),
        "kernel_version": (Until(_v(39), lambda info: info.kernel_version or "<unknown>"),),
        "operating_system": (Until(_v(39), lambda info: info.operating_system or "<unknown>"),),
        "kernel_memory": (Until(_v(42), lambda info: info.kernel_memory_tcp),),
        "firewall_backend": (Since(_v(49)),),
        "bridge_nf_iptables": (Until(_v(50), lambda info: False),),
        "bridge_nf_ip6tables": (Until(_v(50), lambda info: False),),
    },
    system.Runtime: {"status": (Since(_v(44)),)},
    system.RegistryConfig: {
        "allow_nondistributable_artifacts_cidrs": (Until(_v(47), lambda config: None),),
        "allow_nondistributable_artifacts_hostnames": (Until(_v(47), lambda config: None),),
    },
    system.Commit: {"expected": (Until(_v(49), lambda commit: commit.id or UNSET),)},
}

# Words of a query, by route and name: the version that brought or dropped them

PARAMETERS: Mapping[tuple[str, str], Since | Until] = {
    ("containers.create", "platform"): Since(_v(41)),
    ("containers.stop", "signal"): Since(_v(42)),
    ("containers.restart", "signal"): Since(_v(42)),
    ("containers.wait", "condition"): Since(_v(30)),
    ("containers.stats", "one-shot"): Since(_v(41)),
    ("images.create", "platform"): Since(_v(32)),
    ("images.list", "filter"): Until(_v(41), lambda query: None),
    ("images.list", "shared-size"): Since(_v(42)),
    ("images.list", "manifests"): Since(_v(47)),
    ("images.inspect", "manifests"): Since(_v(48)),
    ("images.inspect", "platform"): Since(_v(49)),
    ("images.history", "platform"): Since(_v(48)),
    ("images.save", "platform"): Since(_v(48)),
    ("images.load", "platform"): Since(_v(48)),
    ("images.push", "platform"): Since(_v(46)),
    ("images.remove", "platforms"): Since(_v(50)),
    ("system.df", "type"): Since(_v(42)),
}

# Behaviour, by a name of ours: the version from which on it holds

BEHAVIOURS: Mapping[str, Version] = {
    "create.removes-itself": _v(25),  # AutoRemove is the daemon's work, not the client's
    "networks.list-without-containers": _v(28),
    "wait.headers-first": _v(30),
    "wait.tells-failed-removal": _v(34),
    "create.private-ipc": _v(40),
    "update.pids-limit": _v(40),
    "create.checks-mount-options": _v(42),
    "streams.multiplexed-type": _v(42),
    "volumes.prune-anonymous-only": _v(42),
    "create.recursive-read-only": _v(44),
    "limits.no-kernel-memory": _v(42),
    "create.several-networks": _v(44),
    "create.endpoint-mac-address": _v(44),
    "inspect.short-id-is-no-alias": _v(45),
    "events.image-create": _v(46),
    "create.endpoint-sysctls-only": _v(48),
    "create.image-mounts": _v(48),
    "create.warns-of-volume-driver": _v(48),
    "images.config-omits-runtime-fields": _v(50),
}


def has(version: Version, behaviour: str) -> bool:
    return version >= BEHAVIOURS[behaviour]


def knows(version: Version, route: str, parameter: str) -> bool:
    """Whether a query of that version may say `parameter` on `route`."""
    match PARAMETERS.get((route, parameter)):
        case Since(version=since):
            return version >= since
        case Until(version=until):
            return version < until
        case None:
            return True


# Shaping


def shape(body: T, version: Version) -> T:
    """The body as that version knows it: a request loses what is newer, a response gains what is
    older. Raises InvalidParameter where silence would mislead."""
    if version == NEWEST:
        return body
    if isinstance(body, (list, tuple)):
        items = cast("Sequence[object]", body)
        return cast("T", [shape(item, version) for item in items])
    shaper = _shaper(cast("Hashable", type(body)), version, isinstance(body, Request))
    return body if shaper is None else cast("T", shaper(body))


@functools.cache
def _shaper(cls: Any, version: Version, is_request: bool) -> Shaper | None:
    return _of_type(inspect.type_info(cls), version, is_request)


def _of_type(info: inspect.Type, version: Version, is_request: bool) -> Shaper | None:
    """What to do with a value of this type; None if nothing in it ever changes.

    Shapes that go both ways (`HostConfig`) are cut down in requests only, as with dockerd.
    """
    match info:
        case inspect.Metadata(type=inner):
            return _of_type(inner, version, is_request)
        case inspect.StructType(cls=cls):
            return _of_struct(cls, version, is_request)
        case inspect.UnionType(types=types):
            inner_shapers = {
                t.cls: s
                for t in types
                if isinstance(t, inspect.StructType)
                and (s := _of_struct(t.cls, version, is_request))
            }
            others = [s for t in types if (s := _of_container(t, version, is_request))]
            if not inner_shapers and not others:
                return None
            return functools.partial(_shape_union, inner_shapers, others)
        case _:
            return _of_container(info, version, is_request)


def _of_container(info: inspect.Type, version: Version, is_request: bool) -> Shaper | None:
    match info:
        case inspect.DictType(value_type=inner) if shaper := _of_type(inner, version, is_request):
            return functools.partial(_shape_dict, shaper)
        case inspect.VarTupleType(item_type=inner) if shaper := _of_type(
            inner, version, is_request
        ):
            return functools.partial(_shape_tuple, shaper)
        case _:
            return None


def _shape_union(structs: Mapping[Any, Shaper], others: list[Shaper], value: Any) -> Any:
    if shaper := structs.get(type(value)):
        return shaper(value)
    for other in others:  # each leaves alone what is none of its own
        value = other(value)
    return value


def _shape_dict(shaper: Shaper, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: shaper(item) for key, item in cast("dict[str, Any]", value).items()}


def _shape_tuple(shaper: Shaper, value: Any) -> Any:
    return tuple(shaper(item) for item in value) if _is_tuple(value) else value


def _is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def _fields(cls: type[msgspec.Struct]) -> dict[str, tuple[Rule, ...]]:
    """What is said of a struct, its own word before that of what it is made of."""
    found: dict[str, tuple[Rule, ...]] = {}
    for owner in reversed(cls.__mro__):
        found |= FIELDS.get(owner, {})
    return found


@functools.cache
def _of_struct(cls: type[msgspec.Struct], version: Version, is_request: bool) -> Shaper | None:
    rules = (
        []
        if issubclass(cls, Request) is not is_request
        else [
            (name, rule)
            for name, several in _fields(cls).items()
            for rule in several
            if version < rule.version
        ]
    )
    fields = cast("inspect.StructType", inspect.type_info(cls)).fields
    nested = [(f.name, s) for f in fields if (s := _of_type(f.type, version, is_request))]
    if not rules and not nested:
        return None
    defaults = {f.name: f.default for f in msgspec.structs.fields(cls)}
    return functools.partial(_shape_struct, rules, nested, defaults)


def _shape_struct(
    rules: list[tuple[str, Rule]],
    nested: list[tuple[str, Shaper]],
    defaults: dict[str, object],
    value: Any,
) -> Any:
    changes: dict[str, object] = {}
    for name, shaper in nested:
        old = getattr(value, name)
        if old is not None and old is not UNSET and (new := shaper(old)) is not old:
            changes[name] = new
    for name, rule in rules:
        match rule:
            case Since():
                changes[name] = defaults[name]
            case Until(value=make):
                changes[name] = make(value)
            case Refused(sentence=sentence):
                if getattr(value, name):
                    raise InvalidParameter(sentence)
    return msgspec.structs.replace(value, **changes) if changes else value
