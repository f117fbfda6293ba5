"""Docker's seccomp profiles: what the JSON says. Pure, but for reading Docker's own.

A profile extends the runtime spec's `linux.seccomp` by conditions: a rule may ask for a capability
of the container, an architecture or a kernel. The decoder takes JSON as Go's does (keys in any
case, unknown ones ignored, null for nothing), and its refusals are dockerd's sentences.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from engine import gojson
from engine.errors import SeccompProfileInvalid
from engine.linux.seccomp import Arg, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    Kernel = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When a rule counts (`includes`) or does not (`excludes`)."""

    caps: tuple[str, ...]
    arches: tuple[str, ...]
    min_kernel: Kernel | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionalRule:
    rule: Rule
    includes: Conditions | None
    excludes: Conditions | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`text` is what it was read from, and stands for it where it must be compared."""

    text: str
    default_action: str
    default_errno_ret: int | None
    architectures: tuple[str, ...]
    arch_map: tuple[tuple[str, tuple[str, ...]], ...]
    flags: tuple[str, ...] | None
    listener_path: str
    rules: tuple[ConditionalRule, ...]

    def is_empty(self) -> bool:
        """Says nothing at all: dockerd takes that for no filter."""
        return not self.default_action and not self.rules


@functools.cache
def default() -> Profile:
    """Docker's, as of moby/profiles seccomp v0.2.3 (it also closes AF_ALG)."""
    path = os.path.join(os.path.dirname(__file__), "default.json")
    with open(path, encoding="utf-8") as file:
        return parse(file.read())


# Reading


def parse(source: str | bytes) -> Profile:
    """Raises SeccompProfileInvalid."""
    data = source if isinstance(source, bytes) else source.encode("utf-8", "replace")
    try:
        profile = _profile(data.decode("utf-8", "replace"), _document(data))
    except _Undecodable as exc:
        raise SeccompProfileInvalid(f"Decoding seccomp profile failed: {exc}") from exc
    if profile.architectures and profile.arch_map and not profile.is_empty():
        raise SeccompProfileInvalid(_BOTH.format("architectures", "archMap"))
    return profile


def _document(data: bytes) -> Any:
    try:
        return gojson.loads(data)
    except RecursionError:
        raise _Undecodable(gojson.TOO_DEEP) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _Undecodable(gojson.syntax_error(data, str(exc))) from exc


_BOTH = "both '{0}' and '{1}' are specified in the seccomp profile, use either '{0}' or '{1}'"


class _Undecodable(Exception):
    pass


class _Node:
    """An object of the document, with the way to it for the sentences."""

    __slots__ = ("_fields", "_where")

    def __init__(self, value: Any, where: str, go_type: str) -> None:
        if _kind(value) != "object":
            raise _mismatch(value, where, go_type)
        self._where = where
        fields: dict[str, Any] = value
        # Go prefers the exact key but takes any case.
        self._fields = {key.lower(): item for key, item in fields.items()} | fields

    def has(self, key: str) -> bool:
        return self._get(key) is not None

    def _get(self, key: str) -> Any:
        value = self._fields.get(key)
        return self._fields.get(key.lower()) if value is None else value

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}"

    def text(self, key: str, go_type: str = "string") -> str:
        value = self._get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _mismatch(value, self._path(key), go_type)
        return value

    def unsigned(self, key: str, bits: int) -> int | None:
        go_type = "uint64" if bits == 64 else "uint"
        value = self._get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            if isinstance(value, float):
                raise _overflow(value, self._path(key), go_type)
            raise _mismatch(value, self._path(key), go_type)
        if not 0 <= value < 1 << 64:
            raise _overflow(value, self._path(key), go_type)
        return value

    def each(self, key: str, go_type: str, read: Callable[[object, str], Any]) -> tuple[Any, ...]:
        values = self._get(key)
        if values is None:
            return ()
        if _kind(values) != "array":
            raise _mismatch(values, self._path(key), f"[]{go_type}")
        items: list[Any] = values
        return tuple(
            read(value, f"{self._path(key)}.{index}")
            for index, value in enumerate(items)
            if value is not None
        )

    def texts(self, key: str, go_type: str = "string") -> tuple[str, ...]:
        def read(value: object, where: str) -> str:
            if not isinstance(value, str):
                raise _mismatch(value, where, go_type)
            return value

        return self.each(key, go_type, read)

    def node(self, key: str, go_type: str) -> _Node | None:
        value = self._get(key)
        return None if value is None else _Node(value, self._path(key), go_type)

    def raw(self, key: str) -> object:
        return self._get(key)


def _kind(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _mismatch(value: object, where: str, go_type: str) -> _Undecodable:
    place = f"Go struct field {where}" if "." in where else "Go value"
    return _Undecodable(f"json: cannot unmarshal {_kind(value)} into {place} of type {go_type}")


def _overflow(value: object, where: str, go_type: str) -> _Undecodable:
    return _Undecodable(
        f"json: cannot unmarshal number {value} into Go struct field {where} of type {go_type}"
    )


def _profile(text: str, document: object) -> Profile:
    if document is None:
        document = {}
    node = _Node(document, "Seccomp", "seccomp.Seccomp")
    return Profile(
        text=text,
        default_action=node.text("defaultAction", "specs.LinuxSeccompAction"),
        default_errno_ret=node.unsigned("defaultErrnoRet", 32),
        architectures=node.texts("architectures", "specs.Arch"),
        arch_map=node.each("archMap", "seccomp.Architecture", _architecture),
        flags=node.texts("flags", "specs.LinuxSeccompFlag") if node.has("flags") else None,
        listener_path=node.text("listenerPath"),
        rules=node.each("syscalls", "*seccomp.Syscall", _rule),
    )


def _architecture(value: object, where: str) -> tuple[str, tuple[str, ...]]:
    node = _Node(value, where, "seccomp.Architecture")
    return (
        node.text("architecture", "specs.Arch"),
        node.texts("subArchitectures", "specs.Arch"),
    )


def _rule(value: object, where: str) -> ConditionalRule:
    node = _Node(value, where, "seccomp.Syscall")
    name, names = node.text("name"), node.texts("names")
    if name and names:
        raise SeccompProfileInvalid(_BOTH.format("name", "names"))
    return ConditionalRule(
        rule=Rule(
            names=(name,) if name else names,
            action=node.text("action", "specs.LinuxSeccompAction"),
            errno_ret=node.unsigned("errnoRet", 32),
            args=node.each("args", "specs.LinuxSeccompArg", _arg),
        ),
        includes=_conditions(node.node("includes", "seccomp.Filter")),
        excludes=_conditions(node.node("excludes", "seccomp.Filter")),
    )


def _arg(value: object, where: str) -> Arg:
    node = _Node(value, where, "specs.LinuxSeccompArg")
    return Arg(
        index=node.unsigned("index", 32) or 0,
        value=node.unsigned("value", 64) or 0,
        value_two=node.unsigned("valueTwo", 64) or 0,
        op=node.text("op", "specs.LinuxSeccompOperator"),
    )


def _conditions(node: _Node | None) -> Conditions | None:
    if node is None:
        return None
    return Conditions(
        caps=node.texts("caps"),
        arches=node.texts("arches"),
        min_kernel=_kernel(node.raw("minKernel")),
    )


def _kernel(value: object) -> Kernel | None:
    if value is None or value == "":
        return None
    shown = json.dumps(value)
    sentence = f'invalid kernel version: {shown}, expected "<kernel>.<major>"'
    if not isinstance(value, str):
        raise _Undecodable(
            f"{sentence}: json: cannot unmarshal {_kind(value)} into Go value of type string"
        )
    parts = value.split(".")
    if len(parts) != 2:
        raise _Undecodable(sentence)
    kernel, major = (_byte(part, sentence) for part in parts)
    if kernel == major == 0:
        raise _Undecodable(f"{sentence}: version cannot be 0.0")
    return kernel, major


def _byte(part: str, sentence: str) -> int:
    if not (part.isascii() and part.isdigit()):
        raise _Undecodable(f'{sentence}: strconv.ParseUint: parsing "{part}": invalid syntax')
    if len(part.lstrip("0")) > 3 or int(part) > 255:
        raise _Undecodable(f'{sentence}: strconv.ParseUint: parsing "{part}": value out of range')
    return int(part)
