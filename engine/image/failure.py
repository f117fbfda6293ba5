"""Why an image verb is refused; the sentences are dockerd's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import (
    Conflict,
    EngineError,
    InvalidParameter,
    NotFound,
    NotImplementedHere,
)
from engine.linux import oserror

if TYPE_CHECKING:
    from engine.oci.digest import ImageId
    from engine.oci.platform import Platform


def _short(identifier: str) -> str:
    return identifier.rpartition(":")[2][:12]


class PlatformMismatch(NotFound):
    def __init__(self, ref: str, found: Platform, wanted: Platform) -> None:
        super().__init__(
            f"image with reference {ref} was found but its platform ({found}) "
            f"does not match the specified platform ({wanted})"
        )


class ImageInUse(Conflict):
    """Removing the last name of an image that a container uses."""

    def __init__(self, ref: str, container_id: str, image_id: ImageId) -> None:
        super().__init__(
            f'conflict: unable to remove repository reference "{ref}" (must force) - container '
            f"{_short(container_id)} is using its referenced image {_short(image_id)}"
        )


class DeleteConflict(Conflict):
    """`is_hard`: force does not help. `is_used`: by a container."""

    def __init__(
        self, image_id: ImageId, reason: str, *, is_hard: bool = False, is_used: bool = False
    ) -> None:
        how = "cannot be forced" if is_hard else "must be forced"
        super().__init__(f"conflict: unable to delete {_short(image_id)} ({how}) - {reason}")
        self.is_used = is_used


class PruneRunning(Conflict):
    def __init__(self) -> None:
        super().__init__("a prune operation is already running")


class AmbiguousTag(InvalidParameter):
    def __init__(self) -> None:
        super().__init__("refusing to create an ambiguous tag using digest algorithm as name")


class DigestTaken(Conflict):
    def __init__(self, digest: str) -> None:
        super().__init__(f"cannot overwrite digest {digest}")


class UnsupportedOS(InvalidParameter):
    def __init__(self) -> None:
        super().__init__("operating system is not supported")


class InvalidArchive(InvalidParameter):
    """What was to be loaded is no archive of images."""


class NoPuller(NotImplementedHere):
    def __init__(self) -> None:
        super().__init__("this engine was assembled without a registry client")


class DiskFailed(EngineError):
    """The disk is full or broken: nothing of what was begun is left."""


def of_disk(exc: OSError) -> DiskFailed:
    """As Go words a failed call: "<path>: no space left on device"."""
    return DiskFailed(oserror.sentence(exc))
