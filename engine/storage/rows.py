"""All rows of a noun, as it finds them at boot.

A row that cannot be read, of a damaged disk or another engine, is nobody's to judge: it is logged,
left as it is and remembered by its key, so that what it may refer to is kept and its key and name
stay taken.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.storage.database import Table

log = logging.getLogger(__name__)

RowT = TypeVar("RowT")


def read(table: Table, decode: Callable[[bytes], RowT]) -> tuple[dict[str, RowT], set[str]]:
    """The rows by key, and the keys of those that cannot be read; touches the disk."""
    rows: dict[str, RowT] = {}
    unreadable: set[str] = set()
    for key, document in table.items():
        try:
            rows[key] = decode(document)
        except msgspec.MsgspecError as exc:
            log.error(
                "the row of %s %s cannot be read and stays as it is: %s", table.noun, key, exc
            )
            unreadable.add(key)
    return rows, unreadable
