"""The root of a container as a tar: its image, and its own files over it.

Nothing that is mounted in the container is in it, neither volumes nor /proc: their places are as
empty as the layers have them, whether it runs or not (as with dockerd). It is read through a view
of its own, while the container goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import offload
from engine.container import view
from engine.container.commit import check_is_there
from engine.container.publish import publish
from engine.container.state import Event
from engine.errors import EngineError
from engine.linux import oserror
from engine.storage import pack

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from engine.container.rooms import Rooms
    from engine.container.store import Handle


async def export(rooms: Rooms, handle: Handle, *, ref: str) -> AsyncGenerator[bytes]:
    """The tar in pieces; what can be refused is refused before the first. Close it to end it.

    Raises Conflict for one that goes away, also in the middle: what is missing then is not told
    by an end of the stream that looks like any other.
    """
    check_is_there(rooms, handle, Event.EXPORT)
    pieces = _pieces(rooms.snapshots.folders(handle.container.snapshot_key))
    try:
        # A client that leaves waits for the piece under way: it cannot be closed before.
        while piece := await offload.to_the_end(offload.disk(next, pieces, b"")):
            yield piece
    except OSError as exc:
        raise EngineError(f"Error exporting container {ref}: {oserror.sentence(exc)}") from exc
    finally:
        await offload.to_the_end(offload.disk(pieces.close))
    check_is_there(rooms, handle, Event.EXPORT)
    publish(rooms.events, handle.container, "export")


def _pieces(folders: Sequence[str]) -> Generator[bytes]:
    with view.of_layers(folders) as root:
        yield from pack.tree(root)
