"""What all bodies share: names as the API spells them, null and absence as Go understands them.

A field that Go omits when empty is typed `| UnsetType` and stays UNSET; one that Go writes as null
is typed `| None`. Requests are read through `compat.params.body`, which has already dropped null
where a zero value is meant, so that a request's field is None only where null says something.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "UNSET",
    "Duration",
    "Int",
    "Int64",
    "Omitted",
    "Request",
    "Response",
    "StrSlice",
    "Uint",
    "Uint16",
    "Uint64",
]

# `go` is what dockerd calls the type in the sentence about a value that does not fit.
Int: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, extra={"go": "int"})]
Int64: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, extra={"go": "int64"})]
Duration: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, extra={"go": "time.Duration"})]
Uint16: TypeAlias = Annotated[int, Meta(ge=0, le=2**16 - 1, extra={"go": "uint16"})]
Uint: TypeAlias = Annotated[int, Meta(ge=0, extra={"go": "uint"})]
Uint64: TypeAlias = Annotated[int, Meta(ge=0, extra={"go": "uint64"})]

StrSlice: TypeAlias = Annotated[tuple[str, ...], Meta(extra={"single": True})]
"""A list of strings for which a client may send one bare string."""

Omitted: TypeAlias = UnsetType


class Request(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Read from a client; whatever is absent has its zero value."""


class Response(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Written to a client, fields in the order dockerd writes them."""
