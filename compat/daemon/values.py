"""The kinds of value that an option can have, from a flag's text and from the file's JSON.

Each kind says how one more occurrence of its flag adds to what is there already, what the file may
hold, and how its value reads in a sentence. What cannot be understood raises ValueError with a
sentence. Values are normalised here and nowhere else.
"""

from __future__ import annotations

import csv
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from compat.daemon import checks
from engine import literals
from engine.config import BUILTIN_RUNTIME, AddressPool, Runtime, Ulimit
from engine.literals import INT64_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Kind(Protocol):
    """`name` stands in the help text behind the flag; `bare` is the value of a flag without one."""

    @property
    def name(self) -> str: ...

    @property
    def bare(self) -> str | None: ...

    def add(self, text: str, before: Any) -> Any:
        """The value after one more occurrence; `before` is None at the first."""
        ...

    def decode(self, value: object) -> Any:
        """The value that the file holds; never called with null."""
        ...


# Scalars


@dataclass(frozen=True, slots=True)
class Boolean:
    name: str = ""
    bare: str | None = "true"

    def add(self, text: str, before: Any) -> bool:
        return literals.boolean(text)

    def decode(self, value: object) -> bool:
        return cast("bool", _expect(value, bool, "true or false"))


@dataclass(frozen=True, slots=True)
class Integer:
    name: str = "int"
    bare: str | None = None

    def add(self, text: str, before: Any) -> int:
        try:
            number = _go_integer(text)
        except ValueError:
            raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
        if not -INT64_MAX - 1 <= number <= INT64_MAX:
            raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
        return number

    def decode(self, value: object) -> int:
        number = cast("int", _expect(value, int, "a whole number"))
        if abs(number) > INT64_MAX:
            raise ValueError("is out of range")
        return number


@dataclass(frozen=True, slots=True)
class Text:
    """One string; `check` refuses with ValueError and may normalise."""

    name: str = "string"
    check: Callable[[str], str] | None = None
    bare: str | None = None

    def add(self, text: str, before: Any) -> str:
        return self.check(text) if self.check else text

    def decode(self, value: object) -> str:
        return self.add(_string(value), None)


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes with a unit, "64M"; the file has it as a string too."""

    name: str = "bytes"
    bare: str | None = None

    def add(self, text: str, before: Any) -> int:
        return literals.size_bytes(text)

    def decode(self, value: object) -> int:
        return literals.size_bytes(_string(value, 'a string with a unit, like "64M"'))


# Lists


@dataclass(frozen=True, slots=True)
class Strings:
    """A list that each occurrence makes longer."""

    name: str = "list"
    check: Callable[[str], str] | None = None
    split: bool = False  # one occurrence may hold several, comma between
    bare: str | None = None

    def add(self, text: str, before: Any) -> tuple[str, ...]:
        parts = [part.strip() for part in text.split(",")] if self.split else [text]
        return (*(before or ()), *(self._one(part) for part in parts))

    def decode(self, value: object) -> tuple[str, ...]:
        entries = _list(value, "a list of strings")
        return tuple(self._one(_string(entry, "a list of strings")) for entry in entries)

    def _one(self, text: str) -> str:
        return self.check(text) if self.check else text


@dataclass(frozen=True, slots=True)
class Pools:
    """`base=10.10.0.0/16,size=24`; objects of the same two keys in the file."""

    name: str = "pool-options"
    bare: str | None = None

    def add(self, text: str, before: Any) -> tuple[AddressPool, ...]:
        base, size = "", 0
        for field in next(csv.reader([text]), [""]):
            key, equals, value = field.lower().partition("=")
            if not equals:
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
            match key:
                case "base":
                    base = value
                case "size":
                    size = _pool_size(value, text)
                case _:
                    raise ValueError(f"unexpected key '{key}' in '{field}'")
        return (*(before or ()), address_pool(base, size))

    def decode(self, value: object) -> tuple[AddressPool, ...]:
        return tuple(
            self._decode_one(entry) for entry in _list(value, 'a list of {"base", "size"}')
        )

    def _decode_one(self, entry: object) -> AddressPool:
        fields = _object(entry, 'a list of {"base", "size"}')
        _refuse_others(fields, {"base", "size"})
        base, size = folded(fields, "base"), folded(fields, "size")
        return address_pool(_string(base), cast("int", _expect(size, int, "a whole number")))


# Maps


@dataclass(frozen=True, slots=True)
class Pairs:
    """`key=value`, later ones replacing earlier ones of the same key."""

    name: str = "map"
    bare: str | None = None

    def add(self, text: str, before: Any) -> dict[str, str]:
        key, _, value = text.partition("=")
        return {**(before or {}), key: value}

    def decode(self, value: object) -> dict[str, str]:
        entries = _object(value, "an object of strings")
        return {key: _string(entry, "an object of strings") for key, entry in entries.items()}


@dataclass(frozen=True, slots=True)
class Switches:
    """`name`, `name=true` or `name=false`."""

    name: str = "map"
    bare: str | None = None

    def add(self, text: str, before: Any) -> dict[str, bool]:
        key, equals, value = text.partition("=")
        if not key:
            raise ValueError(f"invalid option name: {text}")
        return {**(before or {}), key: literals.boolean(value) if equals else True}

    def decode(self, value: object) -> dict[str, bool]:
        entries = _object(value, "an object of true and false")
        return {
            key: cast("bool", _expect(entry, bool, "an object of true and false"))
            for key, entry in entries.items()
        }


@dataclass(frozen=True, slots=True)
class PairsByKey:
    """`driver=key=value`."""

    name: str = "mapmap"
    bare: str | None = None

    def add(self, text: str, before: Any) -> dict[str, dict[str, str]]:
        first, has_key, rest = text.partition("=")
        key, has_value, value = rest.partition("=")
        if not has_key or not has_value:
            raise ValueError(f'invalid value "{text}" for map option, should be root-key=key=value')
        so_far: dict[str, dict[str, str]] = before or {}
        return {**so_far, first: {**so_far.get(first, {}), key: value}}

    def decode(self, value: object) -> dict[str, dict[str, str]]:
        entries = _object(value, "an object of objects of strings")
        return {key: Pairs().decode(entry) for key, entry in entries.items()}


@dataclass(frozen=True, slots=True)
class Ulimits:
    """`nofile=1024:2048`; objects with Name, Soft and Hard by name in the file."""

    name: str = "ulimit"
    bare: str | None = None

    def add(self, text: str, before: Any) -> tuple[Ulimit, ...]:
        new = ulimit(text)
        return (*(u for u in before or () if u.name != new.name), new)

    def decode(self, value: object) -> tuple[Ulimit, ...]:
        expected = 'an object of {"Name", "Soft", "Hard"}'
        return tuple(
            self._decode_one(key, _object(entry, expected))
            for key, entry in _object(value, expected).items()
        )

    def _decode_one(self, key: str, fields: Mapping[str, object]) -> Ulimit:
        _refuse_others(fields, {"name", "soft", "hard"})
        soft, hard = folded(fields, "soft") or 0, folded(fields, "hard") or 0
        return checked_ulimit(
            _string(folded(fields, "name") or key),
            cast("int", _expect(soft, int, "a whole number")),
            cast("int", _expect(hard, int, "a whole number")),
        )


@dataclass(frozen=True, slots=True)
class Runtimes:
    """`name=path`; in the file also arguments or a containerd shim's type."""

    name: str = "runtime"
    bare: str | None = None

    def add(self, text: str, before: Any) -> dict[str, Runtime]:
        name, _, path = (part.strip() for part in text.partition("="))
        if not name or not path:
            raise ValueError(f"invalid runtime argument: {text}")
        name = name.lower()
        if name in RESERVED_RUNTIMES:
            raise ValueError(f"runtime name '{name}' is reserved")
        if name in (before or {}):
            raise ValueError(f"runtime '{name}' was already defined")
        return {**(before or {}), name: Runtime(path=path)}

    def decode(self, value: object) -> dict[str, Runtime]:
        entries = _object(value, "an object of runtimes")
        return {
            key: self._decode_one(_object(entry, "an object of runtimes"))
            for key, entry in entries.items()
        }

    def _decode_one(self, fields: Mapping[str, object]) -> Runtime:
        _refuse_others(fields, {"path", "runtimeargs", "runtimetype", "options"})
        return Runtime(
            path=_string(folded(fields, "path") or ""),
            args=Strings().decode(folded(fields, "runtimeArgs") or []),
            type=_string(folded(fields, "runtimeType") or ""),
        )


@dataclass(frozen=True, slots=True)
class Registries:
    """`quay.io=https://mirror`, a mirror at a time; `{"quay.io": {"mirrors": […]}}` in the file."""

    name: str = "registry"
    bare: str | None = None

    def add(self, text: str, before: Any) -> dict[str, tuple[str, ...]]:
        name, equals, url = (part.strip() for part in text.partition("="))
        if not equals:
            raise ValueError(f"invalid registry argument: {text}: must be registry=mirror")
        name, so_far = checks.registry(name), before or {}
        return {**so_far, name: (*so_far.get(name, ()), checks.mirror(url))}

    def decode(self, value: object) -> dict[str, tuple[str, ...]]:
        expected = 'an object of {"mirrors"} by registry'
        found: dict[str, tuple[str, ...]] = {}
        for key, entry in _object(value, expected).items():
            name = checks.registry(key)
            if name in found:
                raise ValueError(f"{key}: {name} was already defined")
            try:
                found[name] = self._mirrors(_object(entry, '{"mirrors"}'))
            except ValueError as exc:
                raise ValueError(f"{key}: {exc}") from None
        return found

    def _mirrors(self, fields: Mapping[str, object]) -> tuple[str, ...]:
        _refuse_others(fields, {"mirrors"})
        mirrors = folded(fields, "mirrors")
        return Strings(check=checks.mirror).decode([] if mirrors is None else mirrors)


@dataclass(frozen=True, slots=True)
class Anything:
    """A value that has no effect and is not looked into, but for being an object."""

    name: str = "object"
    bare: str | None = None

    def add(self, text: str, before: Any) -> str:
        return text

    def decode(self, value: object) -> object:
        return _object(value, "an object")


# Names of runtimes that a flag may not define anew; the file may, for runc.
RESERVED_RUNTIMES = frozenset({"runc", BUILTIN_RUNTIME})

_ULIMITS = frozenset(
    (
        *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice"),
        *("nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
    )
)


def ulimit(text: str) -> Ulimit:
    """`name=soft[:hard]`."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError(
            f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        )
    integer = Integer()
    numbers = [integer.add(part, None) for part in parts]
    return checked_ulimit(name, numbers[0], numbers[-1])


def checked_ulimit(name: str, soft: int, hard: int) -> Ulimit:
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    if hard != -1 and soft == -1:
        raise ValueError(
            "ulimit soft limit must be less than or equal to hard limit: "
            f"soft: -1 (unlimited), hard: {hard}"
        )
    if hard != -1 and soft > hard:
        raise ValueError(
            f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )
    return Ulimit(name=name, soft=soft, hard=hard)


def address_pool(base: str, size: int) -> AddressPool:
    """A pool that networks of `size` bits can be cut from."""
    try:
        network = ipaddress.ip_network(base, strict=False)
    except ValueError:
        raise ValueError(
            f'invalid base prefix "{base}": not an address with a prefix length'
        ) from None
    if "/" not in base:
        raise ValueError(f"invalid base prefix \"{base}\": no '/'")
    if not network.prefixlen <= size <= network.max_prefixlen:
        raise ValueError(f"invalid pool size {size} for {base}")
    return AddressPool(base=str(network), size=size)


def _pool_size(text: str, whole: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'invalid size value: "{whole}" (must be integer)') from None


_GO_INTEGER = re.compile(
    r"[+-]?(0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]+|0[bB][01_]+|[1-9][0-9_]*|0)", re.ASCII
)


def _go_integer(text: str) -> int:
    """An integer literal as Go's ParseInt takes it in base 0; more than 64 digits are refused."""
    if len(text) > 64 or not _GO_INTEGER.fullmatch(text):
        raise ValueError(text)
    body = text.lstrip("+-").lower()
    if re.fullmatch(r"0[0-7_]+", body):
        body = "0o" + body[1:]
    return int(body, 0) * (-1 if text.startswith("-") else 1)


# What the file may hold


def described(value: object) -> str:
    """What kind of JSON value this is, for a sentence."""
    match value:
        case bool():
            return "true or false"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return "null"


def folded(fields: Mapping[str, object], name: str) -> object:
    """The field of that name: as it is, else without regard to case, as Go decodes."""
    if name in fields:
        return fields[name]
    return next((value for key, value in fields.items() if key.lower() == name.lower()), None)


def _refuse_others(fields: Mapping[str, object], known: set[str]) -> None:
    for key in fields:
        if key.lower() not in known:
            raise ValueError(f'has no field "{key}"')


def _expect(value: object, type_: type, expected: str) -> object:
    if not isinstance(value, type_) or (isinstance(value, bool) and type_ is not bool):
        raise ValueError(f"must be {expected}, not {described(value)}")
    return value


def _string(value: object, expected: str = "a string") -> str:
    text = cast("str", _expect(value, str, expected))
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _list(value: object, expected: str) -> list[object]:
    return cast("list[object]", _expect(value, list, expected))


def _object(value: object, expected: str) -> dict[str, object]:
    return cast("dict[str, object]", _expect(value, dict, expected))
