"""Reading JSON documents of registries and archives as Go programs read them.

A null is an absent field, unknown fields are ignored, and nothing nested deep or oversized may hurt
(attacks.md I4). Bytes are kept by whoever needs the exact document; these values are for reading.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from engine.errors import InvalidParameter

LARGEST_BYTES = 4 << 20
"""Largest document accepted (distribution and containerd read at most 4 MiB of a manifest)."""

_DEEPEST = 100
# Maps whose values Go would make of a null: the key stays.
_NULL_VALUES: dict[str, object] = {
    "ExposedPorts": {},
    "Volumes": {},
    "Labels": "",
    "annotations": "",
}


class InvalidDocument(InvalidParameter):
    """The bytes are not the document they should be."""


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all documents: values that do not change."""


D = TypeVar("D")


def decode(data: bytes, type: type[D], *, largest_bytes: int = LARGEST_BYTES) -> D:
    """`data` as a `type`; raises InvalidDocument."""
    if len(data) > largest_bytes:
        raise InvalidDocument(f"document of {len(data)} bytes exceeds {largest_bytes} bytes")
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data), _DEEPEST), type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidDocument(str(exc)) from exc
    except RecursionError:
        raise InvalidDocument("document is nested too deep") from None


def _without_nulls(value: object, deep: int) -> object:
    if deep == 0:
        raise RecursionError
    if isinstance(value, dict):
        return {
            k: _map(v, _NULL_VALUES[k], deep) if k in _NULL_VALUES else _without_nulls(v, deep - 1)
            for k, v in value.items()
            if v is not None
        }
    if isinstance(value, list):
        return [_without_nulls(v, deep - 1) for v in value]
    return value


def _map(value: object, null: object, deep: int) -> object:
    if not isinstance(value, dict):
        return _without_nulls(value, deep - 1)
    return {k: null if v is None else _without_nulls(v, deep - 1) for k, v in value.items()}
