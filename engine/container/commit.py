"""Making an image of a container: what it is asked to be, and its own files while it stands still.

What becomes of the files is the image room's (engine.image.commit).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from engine import offload
from engine.container import merge, portable, stop
from engine.container.model import Status
from engine.container.publish import publish
from engine.container.state import Event, next_status
from engine.image import changes as changes_
from engine.image.commit import Origin
from engine.oci.digest import ImageId
from engine.storage import pack

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from engine.container.model import CommitRequest, Config
    from engine.container.rooms import Rooms
    from engine.container.store import Handle


async def commit(rooms: Rooms, handle: Handle, request: CommitRequest) -> ImageId:
    """Raises Conflict for one that goes away, InvalidChange, and what Images.commit raises."""
    container = handle.container
    # In a thread: changes are a program, of a kind.
    made = await offload.disk(config, container.config, request)
    origin = Origin(
        parent=ImageId(container.image_id),
        container_id=container.id,
        container_config=portable.to_image(container.config),
        config=portable.to_image(made),
        author=request.author,
        comment=request.comment,
    )
    async with stop.held(rooms, handle) if request.pause else contextlib.nullcontext():
        image_id = await rooms.images.commit(origin, request.ref, lambda: _files(rooms, handle))
        publish(
            rooms.events,
            handle.container,
            "commit",
            comment=request.comment,
            imageID=image_id,
            imageRef=request.ref.familiar if request.ref is not None else "",
        )
    return image_id


def config(own: Config, request: CommitRequest) -> Config:
    """The request's, or else the container's, with the changes; then what it leaves to the
    container's is taken from there."""
    asked = own if request.config is None else request.config
    changed = portable.of_image(changes_.apply(portable.to_image(asked), request.changes))
    return merge.inherit(changed, portable.to_image(own))


@contextlib.asynccontextmanager
async def _files(rooms: Rooms, handle: Handle) -> AsyncGenerator[Iterator[bytes]]:
    """The tar of its own files. Whoever removes a container says so first, and only then takes its
    files away: if nobody did by the end, all that was read was there."""
    upper = rooms.snapshots.upper(handle.container.snapshot_key)
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    root = await offload.to_the_end(
        offload.disk(os.open, upper, flags), undo=lambda fd: offload.disk(os.close, fd)
    )
    try:
        yield pack.layer(root)
    finally:
        os.close(root)
    check_is_there(rooms, handle, Event.COMMIT)


def check_is_there(rooms: Rooms, handle: Handle, event: Event) -> None:
    """Raises Conflict for one that is being removed, dead or gone."""
    status = Status.REMOVING if handle.is_gone else handle.state.status
    next_status(status, event, handle.id)
    if not rooms.snapshots.exists(handle.container.snapshot_key):
        next_status(Status.REMOVING, event, handle.id)
