"""Removing images: names first, then what no longer has one, then its parents. Plans and does.

The order and the exceptions are dockerd's (moby daemon/images/image_delete.go): a name goes alone
if others remain; an id takes its only name with it; with several names it needs force.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import TYPE_CHECKING

from engine.image import failure
from engine.image.model import Removed
from engine.oci import digest as digests
from engine.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.image.catalog import Catalog
    from engine.image.model import Image
    from engine.oci.digest import ImageId
    from engine.oci.reference import Reference

    Users = Callable[[str], list[tuple[str, bool]]]
    Publish = Callable[[str, Image], None]


class _Reason(Flag):
    DEPENDENT_CHILD = auto()
    RUNNING_CONTAINER = auto()
    ACTIVE_REFERENCE = auto()
    STOPPED_CONTAINER = auto()
    HARD = DEPENDENT_CHILD | RUNNING_CONTAINER
    SOFT = ACTIVE_REFERENCE | STOPPED_CONTAINER


class Removal:
    """One removal: collects what is gone. `publish` is called for every event, in order."""

    def __init__(self, catalog: Catalog, users_of: Users, publish: Publish) -> None:
        self._catalog = catalog
        self._users_of = users_of
        self._publish = publish
        self.removed: list[Removed] = []

    def run(self, ref: str, image: Image, *, force: bool, prune: bool) -> None:
        """Remove what `ref` means; raises ImageInUse, DeleteConflict."""
        if is_id_prefix(image.id, ref):
            if is_single(self._catalog.references(image.id)):
                self._check(
                    image, _Reason.HARD if force else _Reason.HARD | _Reason.STOPPED_CONTAINER
                )
                self._untag_all(image)
            self._delete(image, force=force, prune=prune, is_quiet=False)
        elif self._untag_named(ref, image, force=force):
            self._delete(image, force=force, prune=prune, is_quiet=True)

    def _untag_named(self, ref: str, image: Image, *, force: bool) -> bool:
        """Take the name away; True if the image has none left."""
        names = self._catalog.references(image.id)
        if not force and is_single(names) and (users := self._users_of(image.id)):
            raise failure.ImageInUse(ref, users[0][0], image.id)
        name = references.parse(ref).stored()
        self._untag(image, name)
        names = self._catalog.references(image.id)
        if name.digest is None and not any(n.tag and n.name == name.name for n in names):
            # Without a tag the digests of its repository mean nothing to anyone.
            for other in [n for n in names if n.name == name.name]:
                self._catalog.untag(other)
                self.removed.append(Removed(untagged=other.familiar))
            names = self._catalog.references(image.id)
        return not names

    def _untag(self, image: Image, name: Reference) -> None:
        self._catalog.untag(name)
        self._publish("untag", image)
        self.removed.append(Removed(untagged=name.familiar))

    def _untag_all(self, image: Image) -> None:
        for name in self._catalog.references(image.id):
            self._untag(image, name)

    def _delete(self, image: Image, *, force: bool, prune: bool, is_quiet: bool) -> None:
        """Remove the image and then, unless told otherwise, parents nobody needs."""
        try:
            self._check(image, _Reason.HARD if force else _Reason.HARD | _Reason.SOFT)
        except failure.DeleteConflict as conflict:
            if is_quiet and (not self._is_dangling(image.id) or conflict.is_used):
                return
            raise
        self._untag_all(image)
        layers = self._catalog.delete(image.id)
        self._publish("delete", image)
        self.removed.append(Removed(deleted=image.id))
        self.removed += [Removed(deleted=layer.chain_id) for layer in layers]
        parent = self._catalog.by_id(image.parent) if image.parent else None
        if prune and parent is not None:
            self._delete(parent, force=False, prune=True, is_quiet=True)

    def _is_dangling(self, image_id: ImageId) -> bool:
        return not self._catalog.references(image_id) and not self._catalog.has_children(image_id)

    def _check(self, image: Image, reasons: _Reason) -> None:
        """Raise DeleteConflict for the first of the reasons that applies."""
        if _Reason.DEPENDENT_CHILD in reasons and self._catalog.has_children(image.id):
            raise failure.DeleteConflict(image.id, "image has dependent child images", is_hard=True)
        users = self._users_of(image.id)
        running = [container for container, is_running in users if is_running]
        if _Reason.RUNNING_CONTAINER in reasons and running:
            raise failure.DeleteConflict(
                image.id,
                f"image is being used by running container {running[0][:12]}",
                is_hard=True,
                is_used=True,
            )
        if _Reason.ACTIVE_REFERENCE in reasons and self._catalog.references(image.id):
            raise failure.DeleteConflict(image.id, "image is referenced in multiple repositories")
        stopped = [container for container, is_running in users if not is_running]
        if _Reason.STOPPED_CONTAINER in reasons and stopped:
            raise failure.DeleteConflict(
                image.id,
                f"image is being used by stopped container {stopped[0][:12]}",
                is_used=True,
            )


def is_id_prefix(image_id: ImageId, ref: str) -> bool:
    return image_id.startswith(ref) or digests.encoded(image_id).startswith(ref)


def is_single(names: Sequence[Reference]) -> bool:
    """Whether all names are one tag of one repository, with or without its digests."""
    if len(names) <= 1:
        return len(names) == 1
    tagged = [n for n in names if n.digest is None]
    if len(tagged) > 1:
        return False
    single = tagged[0] if tagged else names[0]
    return {n.name for n in names if n.digest is not None} == {single.name}
