"""Reading JSON documents of registries and archives as Go programs read them.

A null is an absent field, unknown fields are ignored, and what is nested deep or oversized is
refused like any other malformed document. Bytes are kept by whoever needs the exact document; these
values are for reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from engine import gojson
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable

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
# What Go programs call the structs of these documents.
_GO_NAMES = {
    "Config": "container.Config",
    "Descriptor": "v1.Descriptor",
    "Healthcheck": "v1.HealthcheckConfig",
    "History": "image.History",
    "ImageConfig": "image.Image",
    "Index": "manifestlist.ManifestList",
    "Manifest": "schema2.Manifest",
    "ManifestItem": "tarexport.manifestItem",
    "OldConfig": "image.V1Image",
    "Platform": "v1.Platform",
    "RootFS": "image.RootFS",
    "_Probe": "manifest.Versioned",
}


class InvalidDocument(InvalidParameter):
    """The bytes are not the document they should be."""


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all documents: values that do not change."""


D = TypeVar("D")


def decode(
    data: bytes,
    type: type[D],
    *,
    largest_bytes: int = LARGEST_BYTES,
    adjust: Callable[[object], None] = lambda _: None,
) -> D:
    """`data` as a `type`; raises InvalidDocument. `adjust` changes what was read before that."""
    if len(data) > largest_bytes:
        raise InvalidDocument(f"document of {len(data)} bytes exceeds {largest_bytes} bytes")
    try:
        loose = without_nulls(gojson.loads(data))
        if loose is None and _is_struct(type):
            loose = {}  # a document without fields
        adjust(loose)
        return msgspec.convert(loose, type)
    except msgspec.ValidationError as exc:
        said = gojson.type_error(data, type, _GO_NAMES, frozenset())
        raise InvalidDocument(said or str(exc)) from exc
    except msgspec.DecodeError as exc:
        raise InvalidDocument(gojson.syntax_error(data, str(exc))) from exc
    except UnicodeDecodeError as exc:
        raise InvalidDocument("invalid UTF-8 in string") from exc
    except RecursionError:
        raise InvalidDocument(gojson.TOO_DEEP) from None


def _is_struct(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, msgspec.Struct)


def without_nulls(value: object) -> object:
    """The document with absent fields instead of nulls; RecursionError if it is nested deep."""
    return _stripped(value, _DEEPEST)


def _stripped(value: object, deep: int) -> object:
    if deep == 0:
        raise RecursionError
    if isinstance(value, dict):
        return {
            k: _map(v, _NULL_VALUES[k], deep) if k in _NULL_VALUES else _stripped(v, deep - 1)
            for k, v in cast("dict[str, object]", value).items()
            if v is not None
        }
    if isinstance(value, list):
        return [_stripped(v, deep - 1) for v in cast("list[object]", value)]
    return value


def _map(value: object, null: object, deep: int) -> object:
    if not isinstance(value, dict):
        return _stripped(value, deep - 1)
    entries = cast("dict[str, object]", value)
    return {k: null if v is None else _stripped(v, deep - 1) for k, v in entries.items()}
