"""What a request says of a terminal, and an answer of there being one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat import streams

if TYPE_CHECKING:
    from compat.routes.route import Call


def size(call: Call) -> tuple[int, int]:
    """Height and width."""
    return call.query.uint32("h", "resize height"), call.query.uint32("w", "resize width")


def stream_type(call: Call, *, tty: bool) -> str:
    """The content type of output, which is multiplexed where there is no terminal."""
    if tty or not call.has("streams.multiplexed-type"):
        return streams.RAW_STREAM
    return streams.MULTIPLEXED_STREAM
