"""Digests: the name of a blob is the hash of its bytes (image-spec, descriptor.md §Digests).

Four kinds, alike in form and not to be mixed up: `Digest` of a blob as transferred, `DiffId` of a
layer's uncompressed tar, `ChainId` of a stack of layers, `ImageId` of an image's config.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NewType, Protocol

from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable

Digest = NewType("Digest", str)
DiffId = NewType("DiffId", str)
ChainId = NewType("ChainId", str)
ImageId = NewType("ImageId", str)

CANONICAL = "sha256"
HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}

_FORM = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_HEX = re.compile(r"[a-f0-9]+")


class Hash(Protocol):
    """What hashes; `hashlib`'s own type has no public name."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class InvalidDigest(InvalidParameter):
    """The text is no digest; the sentences are those of opencontainers/go-digest."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(reason)
        self.text = text


def parse(text: str) -> Digest:
    """The digest that `text` is; raises InvalidDigest."""
    if not _FORM.fullmatch(text):
        raise InvalidDigest(text, "invalid checksum digest format")
    algorithm, _, encoded = text.partition(":")
    if algorithm not in HEX_LENGTH:
        raise InvalidDigest(text, "unsupported digest algorithm")
    if len(encoded) != HEX_LENGTH[algorithm]:
        raise InvalidDigest(text, "invalid checksum digest length")
    if not _HEX.fullmatch(encoded):
        raise InvalidDigest(text, "invalid checksum digest format")
    return Digest(text)


def is_digest(text: str) -> bool:
    try:
        parse(text)
    except InvalidDigest:
        return False
    return True


def algorithm(digest: str) -> str:
    return digest.partition(":")[0]


def encoded(digest: str) -> str:
    """What stands after the colon."""
    return digest.partition(":")[2]


def hasher(digest: str = "sha256:") -> Hash:
    """A fresh hash of the digest's algorithm; `update` on large buffers leaves the GIL."""
    return hashlib.new(algorithm(digest))


def of(data: bytes) -> Digest:
    """The canonical digest of `data`."""
    return Digest(f"{CANONICAL}:{hashlib.sha256(data).hexdigest()}")


def next_chain_id(parent: ChainId | None, diff_id: DiffId) -> ChainId:
    """The stack `parent` with one more layer on it (image-spec, config.md §Layer ChainID)."""
    if parent is None:
        return ChainId(diff_id)
    return ChainId(of(f"{parent} {diff_id}".encode()))


def chain_ids(diff_ids: Iterable[DiffId]) -> tuple[ChainId, ...]:
    """The chain id of every prefix of the stack, lowest layer first."""
    chain: list[ChainId] = []
    for diff_id in diff_ids:
        chain.append(next_chain_id(chain[-1] if chain else None, diff_id))
    return tuple(chain)


def chain_id(diff_ids: Iterable[DiffId]) -> ChainId | None:
    """The name of the whole stack, None where there is no layer."""
    chain = chain_ids(diff_ids)
    return chain[-1] if chain else None
