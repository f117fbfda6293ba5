"""Snapshots: stacks of layers for overlayfs, below every image and every container.

Terms, after containerd:

    layer      committed and read-only; named by its chain id, the digest of all diff ids up to it
    snapshot   active: the writable directory of one container, named by its key
    parent     the layer beneath; a stack ends at a layer without one

Nothing is mounted here. `mounts` says what to mount, and init does so in its own namespace.

On disk:

    <root>/overlay2/<folder>/diff …     one layer, unpacked once (see layer.py)
    <root>/overlay2/<key>/{diff,work}   one container's own files
    <root>/overlay2/init/<name>/diff …  what every container has above its image (see initlayer.py)
    <root>/overlay2/l/<short>           links to the diffs of layers: mount(2) takes one page of
                                        options, and a stack may be 128 layers deep
    <root>/overlay2/stage/<random>      being unpacked
    <root>/overlay2/trash/<random>      being removed

A worked example, an image of two layers A and B and a container of it:

    a = snapshots.stage_layer(stream_a, diff_id=…)      # both at once, in any order
    b = snapshots.stage_layer(stream_b, diff_id=…)
    with snapshots.lease() as lease:
        bottom = snapshots.commit_layer(a, None, lease)
        top = snapshots.commit_layer(b, bottom.chain_id, lease)
        …                                               # the image's row: now it keeps them itself
    snapshots.prepare(container_id, top.chain_id)
    snapshots.mounts(container_id)                      # lowerdir=init/N/diff:l/B:l/A,upperdir=…
    snapshots.remove(container_id)

A layer's row is written last and removed first; between the two, files without a row belong to
nobody and the next sweep takes them. As long as a row cannot be read nobody knows what it stands
on, so nothing it might need is removed. A folder may serve several rows: the same tar on top of
different stacks is unpacked once, as long as nothing in it depends on what lies below.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import threading
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine import ids
from engine.errors import EngineError, InvalidParameter
from engine.linux import overlay, tree
from engine.oci.digest import ChainId, DiffId, next_chain_id
from engine.storage import atomic, initlayer, layer, recipe, rows
from engine.storage.leases import Lease, Leases
from engine.storage.stacks import Stacks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from engine.storage.compression import Readable
    from engine.storage.database import Database
    from engine.storage.layer import Staged

log = logging.getLogger(__name__)

DEEPEST = 128
"""Layers of one stack: a few more than dockerd takes (125); overlayfs would take 500."""

LARGEST_OPTIONS_BYTES = 4095
"""mount(2) copies one page of options, the last byte of it a NUL."""

_PLAIN = ("redirect_dir=off", "metacopy=off")
"""So that a container's own files are whole: a layer is made of them alone (see pack.py). Some
distributions' kernels have both on."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_OWN_FOLDERS = frozenset((initlayer.FOLDER, "l", "stage", "trash"))
_LINK_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_LINK_LENGTH = 8


class LayerMissing(EngineError):
    def __init__(self, chain_id: str) -> None:
        super().__init__(f"layer {chain_id} does not exist")
        self.chain_id = chain_id


class TooDeep(InvalidParameter):
    def __init__(self) -> None:
        super().__init__("max depth exceeded")


class Layer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The row of a committed layer.

    `size_bytes` counts files as dockerd does, `tar_bytes` is the length of its tar. `is_portable`:
    nothing in the folder was taken from the layers below, so any stack may use it.
    """

    version: int = 1
    chain_id: ChainId
    diff_id: DiffId
    parent: ChainId | None = None
    folder: str
    link: str
    size_bytes: int
    tar_bytes: int
    depth: int = 1
    has_moves: bool = False
    is_opaque: bool = False
    is_portable: bool = True


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The row of a container's own directory, and the name of its init layer."""

    version: int = 1
    parent: ChainId | None = None
    init: str


class Released(NamedTuple):
    """Layers whose rows are gone, topmost first, and the folders that nobody uses any more."""

    layers: tuple[Layer, ...] = ()
    folders: tuple[str, ...] = ()


_decode_layer = msgspec.json.Decoder(Layer).decode
_decode_snapshot = msgspec.json.Decoder(Snapshot).decode


class Mount(NamedTuple):
    """One mount as runtime-spec has it; `base`, if any, must be the cwd while mounting."""

    type: str
    source: str
    options: tuple[str, ...]
    target: str = "/"
    base: str = ""


class StagedLayer:
    """An unpacked layer that nobody sees yet: commit it or discard it."""

    def __init__(self, staged: Staged) -> None:
        self.staged = staged

    @property
    def diff_id(self) -> DiffId:
        return self.staged.diff_id

    @property
    def tar_bytes(self) -> int:
        return self.staged.tar_bytes

    def discard(self) -> None:
        """Remove the files; after a commit there is nothing left to remove."""
        tree.remove(self.staged.folder)


class Snapshots:
    """The one snapshotter. Thread-safe; all rows are kept in memory too, where readers find them
    without a lock (see stacks.py). Changes of rows are made under `_changes`, one at a time.
    """

    def __init__(self, root: str, database: Database) -> None:
        self.root = os.path.join(os.path.realpath(root), "overlay2")
        self._stage = os.path.join(self.root, "stage")
        self._trash = os.path.join(self.root, "trash")
        self._links = os.path.join(self.root, "l")
        self._inits = os.path.join(self.root, initlayer.FOLDER)
        self._init_of: dict[ChainId | None, str] = {}
        for folder in (self.root, self._stage, self._trash, self._links, self._inits):
            os.makedirs(folder, mode=0o710, exist_ok=True)
        self._database = database
        self._layer_rows = database.table("layer")
        self._snapshot_rows = database.table("snapshot")
        self._changes = threading.RLock()
        self.leases = Leases()
        self._rubbish: list[str] = []
        layers, self._unreadable_layers = rows.read(self._layer_rows, _decode_layer)
        snapshots, self._unreadable = rows.read(self._snapshot_rows, _decode_snapshot)
        self._stacks = Stacks({ChainId(key): row for key, row in layers.items()}, snapshots)

    # Layers

    def lease(self) -> Lease:
        return Lease(self.leases)

    def get_layer(self, chain_id: ChainId) -> Layer:
        """The row; raises LayerMissing."""
        try:
            return self._stacks.layers[chain_id]
        except KeyError:
            raise LayerMissing(chain_id) from None

    def layers(self) -> list[Layer]:
        return list(self._stacks.layers.values())

    def stack(self, chain_id: ChainId | None) -> list[Layer]:
        """The layer and all below it, topmost first."""
        found: list[Layer] = []
        while chain_id is not None:
            found.append(self.get_layer(chain_id))
            chain_id = found[-1].parent
        return found

    def layer_size(self, chain_id: ChainId) -> int:
        return self.get_layer(chain_id).size_bytes

    def stack_size(self, chain_id: ChainId | None) -> int:
        return sum(found.size_bytes for found in self.stack(chain_id))

    def find_layer(self, chain_id: ChainId, lease: Lease) -> Layer | None:
        """The layer if it is there, then held by the lease."""
        with self._changes:
            if (found := self._stacks.layers.get(chain_id)) is not None:
                lease.add(chain_id)
            return found

    def adopt_layer(self, diff_id: DiffId, parent: ChainId | None, lease: Lease) -> Layer | None:
        """The layer on this parent without unpacking, if its tar is unpacked for another stack."""
        with self._changes:
            chain_id = next_chain_id(parent, diff_id)
            if (found := self.find_layer(chain_id, lease)) is not None:
                return found
            twin = self._twin(diff_id)
            if twin is None or (parent is not None and parent not in self._stacks.layers):
                return None
            return self._put_layer(
                msgspec.structs.replace(
                    twin, chain_id=chain_id, parent=parent, depth=self._depth(parent)
                ),
                lease,
            )

    def _twin(self, diff_id: DiffId) -> Layer | None:
        for found in self._stacks.layers.values():
            if found.diff_id == diff_id and found.is_portable:
                return found
        return None

    def _depth(self, parent: ChainId | None) -> int:
        depth = 1 if parent is None else self.get_layer(parent).depth + 1
        if depth > DEEPEST:
            raise TooDeep
        return depth

    def stage_layer(
        self,
        stream: Readable,
        *,
        diff_id: DiffId | None = None,
        is_plain: bool = False,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> StagedLayer:
        """Unpack a layer of any compression where nobody sees it; see layer.stage for the errors.

        Needs no parent and no lock: several may run at once, each in its own thread.
        """
        folder = os.path.join(self._stage, ids.generate())
        os.mkdir(folder, 0o710)
        try:
            return StagedLayer(
                layer.stage(
                    stream, folder, diff_id=diff_id, is_plain=is_plain, is_cancelled=is_cancelled
                )
            )
        except BaseException:
            tree.remove(folder)
            raise

    def commit_layer(
        self, staged_layer: StagedLayer, parent: ChainId | None, lease: Lease
    ) -> Layer:
        """Make a staged layer the one on top of `parent`; the staged one is used up.

        If that layer has come into being meanwhile, that one is given and the staged discarded.
        Raises LayerMissing, TooDeep, CorruptLayer; then nothing of it is left.
        """
        staged = staged_layer.staged
        try:
            existing = self.adopt_layer(staged.diff_id, parent, lease)
            if existing is not None:
                return existing
            depth = self._depth(parent)
            lowers = [self._diff(found) for found in self.stack(parent)] if parent else []
            layer.complete(staged, lowers)
            return self._install(staged, parent, depth, lease)
        finally:
            staged_layer.discard()

    def _install(self, staged: Staged, parent: ChainId | None, depth: int, lease: Lease) -> Layer:
        name = os.path.basename(staged.folder)
        row = Layer(
            chain_id=next_chain_id(parent, staged.diff_id),
            diff_id=staged.diff_id,
            parent=parent,
            folder=name,
            link=self._new_link(name),
            size_bytes=staged.size_bytes,
            tar_bytes=staged.tar_bytes,
            depth=depth,
            has_moves=staged.has_moves,
            is_opaque=staged.is_opaque,
            is_portable=not staged.needs_lower,
        )
        target = os.path.join(self.root, name)
        with self._changes:
            # Two may have unpacked the same layer; the first to come here wins.
            if (found := self.find_layer(row.chain_id, lease)) is not None:
                os.unlink(os.path.join(self._links, row.link))
                return found
            os.rename(staged.folder, target)
            try:
                atomic.fsync_directory(self.root)
                atomic.fsync_directory(self._links)
                return self._put_layer(row, lease)
            except BaseException:
                os.unlink(os.path.join(self._links, row.link))
                atomic.discard(target, self._trash)
                raise

    def _new_link(self, folder: str) -> str:
        while True:
            link = "".join(secrets.choice(_LINK_ALPHABET) for _ in range(_LINK_LENGTH))
            try:
                os.symlink(f"../{folder}/diff", os.path.join(self._links, link))
            except FileExistsError:
                continue
            return link

    def _put_layer(self, row: Layer, lease: Lease) -> Layer:
        lease.add(row.chain_id)
        self._layer_rows.put(row.chain_id, msgspec.json.encode(row))
        self._stacks.add(row)
        return row

    def layer_tar(self, chain_id: ChainId) -> Iterator[bytes]:
        """The layer's tar, byte for byte, in pieces; its length is `tar_bytes`.

        Raises DamagedLayer. Hold a lease on the layer while reading.
        """
        found = self.get_layer(chain_id)
        return recipe.assemble(self._folder(found), has_moves=found.has_moves)

    def _folder(self, found: Layer) -> str:
        return os.path.join(self.root, found.folder)

    def _diff(self, found: Layer) -> str:
        return os.path.join(self.root, found.folder, "diff")

    def release(self, chain_id: ChainId | None, *, top_layers: Collection[ChainId]) -> Released:
        """Remove the rows of the layer and of those below it, as far down as nobody needs them.

        `top_layers` are those of the images that stay. `remove_folders` does the rest.
        """
        doomed: list[Layer] = []
        with self._changes:
            layers = self._stacks.layers if self._is_readable() else {}
            while chain_id is not None and (found := layers.get(chain_id)) is not None:
                if chain_id in top_layers or self.leases.holds(chain_id):
                    break
                if self._stacks.count_above(chain_id) > bool(doomed):
                    break
                doomed.append(found)
                chain_id = found.parent
            return self._remove_rows(doomed)

    def sweep_layers(self, top_layers: Collection[ChainId]) -> Released:
        """Remove the rows of all layers that no image, snapshot or lease stands on.

        `remove_folders` does the rest.
        """
        with self._changes:
            if not self._is_readable():
                log.warning("no layer is swept while rows cannot be read")
                return Released()
            layers = self._stacks.layers
            marked: set[ChainId] = set()
            for top in self._needed(top_layers):
                chain_id: ChainId | None = top
                while chain_id is not None and chain_id in layers and chain_id not in marked:
                    marked.add(chain_id)
                    chain_id = layers[chain_id].parent
            doomed = [found for key, found in layers.items() if key not in marked]
            doomed.sort(key=lambda found: found.depth, reverse=True)
            return self._remove_rows(doomed)

    def _is_readable(self) -> bool:
        return not self._unreadable_layers and not self._unreadable

    def _needed(self, top_layers: Collection[ChainId]) -> set[ChainId]:
        held = {ChainId(name) for name in self.leases.names()}
        snapshots = self._stacks.snapshots.values()
        return held | {s.parent for s in snapshots if s.parent is not None} | set(top_layers)

    def _remove_rows(self, doomed: Collection[Layer]) -> Released:
        """The links go too; only what takes time is left to do."""
        if not doomed:
            return Released()
        self._database.delete((self._layer_rows, found.chain_id) for found in doomed)
        self._stacks.remove(doomed)
        free = {f.folder: f for f in doomed if not self._stacks.is_folder(f.folder)}
        for found in free.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._links, found.link))
        return Released(tuple(doomed), tuple(free))

    def remove_folders(self, released: Released) -> None:
        """Remove the files of layers without rows. Takes its time, and no lock."""
        for folder in released.folders:
            atomic.discard(os.path.join(self.root, folder), self._trash)

    # Snapshots

    def prepare(self, key: str, parent: ChainId | None) -> None:
        """Make a container's own, empty directory on top of `parent`; the row comes last.

        Raises LayerMissing; FileExistsError if the key is taken.
        """
        if not _is_usable(key):
            raise ValueError(f"unusable snapshot key {key!r}")
        with self._changes:
            if parent is not None:
                self.get_layer(parent)
            if key in self._stacks.snapshots or key in self._unreadable:
                raise FileExistsError(f"snapshot {key} exists")
            folder = os.path.join(self.root, key)
            if os.path.lexists(folder):
                atomic.discard(folder, self._trash)  # left by a crash
            init = self._init_layer(parent)
            os.mkdir(folder, 0o710)
            for name, mode in (("diff", 0o755), ("work", 0o700)):
                path = os.path.join(folder, name)
                os.mkdir(path, mode)
                os.chmod(path, mode)
            row = Snapshot(parent=parent, init=init)
            self._snapshot_rows.put(key, msgspec.json.encode(row))
            self._stacks.add_snapshot(key, row)

    def _init_layer(self, parent: ChainId | None) -> str:
        """The name of the one above `parent`; an image is looked at once."""
        if (name := self._init_of.get(parent)) is None:
            diffs = [self._diff(found) for found in self._seen(parent)]
            name = initlayer.make(self.root, initlayer.plan(diffs), self._stage)
            self._init_of[parent] = name
        return name

    def exists(self, key: str) -> bool:
        return key in self._stacks.snapshots

    def keys(self) -> list[str]:
        """Those whose rows can be read."""
        return list(self._stacks.snapshots)

    def parent(self, key: str) -> ChainId | None:
        return self._snapshot(key).parent

    def _snapshot(self, key: str) -> Snapshot:
        try:
            return self._stacks.snapshots[key]
        except KeyError:
            raise EngineError(f"snapshot {key} does not exist") from None

    def mounts(self, key: str) -> list[Mount]:
        """What to mount at the container's root; nothing is mounted here."""
        return [self._overlay(self._below(key), (f"{key}/diff", f"{key}/work"))]

    def folders(self, key: str) -> list[str]:
        """What is seen at the container's root: its own files, then all below, topmost first."""
        return [self.upper(key), *(os.path.join(self.root, lower) for lower in self._below(key))]

    def _below(self, key: str) -> list[str]:
        snapshot = self._snapshot(key)
        links = self._lowers(snapshot.parent)
        return [f"{initlayer.FOLDER}/{snapshot.init}/diff", *(f"l/{link}" for link in links)]

    def layer_folders(self, parent: ChainId) -> list[str]:
        """What is seen of the stack alone, topmost first."""
        return [os.path.join(self._links, link) for link in self._lowers(parent)]

    def view_mounts(self, parent: ChainId) -> list[Mount]:
        """What to mount to read the stack alone."""
        lowers = self._lowers(parent)
        if len(lowers) == 1:
            return [Mount("bind", os.path.join(self._links, lowers[0]), ("rbind", "ro"))]
        return [self._overlay([f"l/{link}" for link in lowers], None)]

    def _lowers(self, parent: ChainId | None) -> list[str]:
        """The links of the stack, topmost first.

        overlayfs refuses one directory twice; the lower of two equals shows nothing that the upper
        does not.
        """
        return list(dict.fromkeys(found.link for found in self._seen(parent)))

    def _seen(self, parent: ChainId | None) -> list[Layer]:
        """The stack without what lies below an opaque root, topmost first."""
        seen: list[Layer] = []
        for found in self.stack(parent):
            seen.append(found)
            if found.is_opaque:
                break
        return seen

    def _overlay(self, lowers: list[str], own: tuple[str, str] | None) -> Mount:
        def options(base: str) -> tuple[str, ...]:
            stack = ":".join(f"{base}{lower}" for lower in lowers)
            upper = (f"upperdir={base}{own[0]}", f"workdir={base}{own[1]}", *_PLAIN) if own else ()
            return (f"lowerdir={stack}", *upper)

        absolute = options(overlay.escaped(self.root) + "/")
        if len(",".join(absolute)) <= LARGEST_OPTIONS_BYTES:
            return Mount("overlay", "overlay", absolute)
        return Mount("overlay", "overlay", options(""), base=self.root)

    def directories(self, key: str) -> dict[str, str]:
        """GraphDriver.Data of a container."""
        snapshot = self._snapshot(key)
        init = os.path.join(self._inits, snapshot.init, "diff")
        lowers = [init, self._lower_dir(snapshot.parent)]
        return _graph_driver_data(os.path.join(self.root, key), ":".join(filter(None, lowers)))

    def layer_directories(self, chain_id: ChainId) -> dict[str, str]:
        """GraphDriver.Data of an image, by its top layer."""
        top = self.get_layer(chain_id)
        return _graph_driver_data(self._folder(top), self._lower_dir(top.parent))

    def _lower_dir(self, parent: ChainId | None) -> str:
        return ":".join(self._diff(found) for found in self.stack(parent))

    def upper(self, key: str) -> str:
        """The container's own files."""
        self._snapshot(key)
        return os.path.join(self.root, key, "diff")

    def usage(self, key: str) -> int:
        """Bytes of the container's own files."""
        return tree.usage(self.upper(key))

    def remove(self, key: str) -> None:
        """Remove a container's directory; none there is fine."""
        with self._changes:
            if not _is_usable(key) or self._stacks.is_folder(key):
                return
            self._snapshot_rows.delete(key)
            self._stacks.remove_snapshot(key)
            self._unreadable.discard(key)
        atomic.discard(os.path.join(self.root, key), self._trash)

    # After a crash

    def sweep_folders(self) -> None:
        """Take away folders and links without a row; only at boot, before anything is begun.

        Their bytes go with `empty_trash`, which may take its time.
        """
        for name in os.listdir(self._stage):
            self._throw_away(os.path.join(self._stage, name))
        self._restore_links()
        if not self._unreadable_layers:
            self._sweep_unknown()
        self._rubbish = os.listdir(self._trash)

    def _sweep_unknown(self) -> None:
        """What no row names, as long as all rows say what they name."""
        folders = {found.folder for found in self.layers()}
        self._sweep(self.root, {*folders, *self.keys(), *self._unreadable, *_OWN_FOLDERS})
        links = {found.link for found in self.layers()}
        for name in os.listdir(self._links):
            if name not in links:
                os.unlink(os.path.join(self._links, name))
        if not self._unreadable:
            self._sweep(self._inits, {found.init for found in self._stacks.snapshots.values()})

    def _sweep(self, folder: str, known: Collection[str]) -> None:
        for name in os.listdir(folder):
            if name not in known:
                path = os.path.join(folder, name)
                log.info("removing %s, which nothing refers to", path)
                self._throw_away(path)

    def _throw_away(self, path: str) -> None:
        os.rename(path, os.path.join(self._trash, secrets.token_hex(12)))

    def empty_trash(self) -> None:
        """Remove what `sweep_folders` and former engines threw away."""
        rubbish, self._rubbish = self._rubbish, []
        for name in rubbish:
            atomic.remove(os.path.join(self._trash, name))

    def _restore_links(self) -> None:
        """A link of a row that is not there (a copied data root) is made again."""
        for found in self.layers():
            path = os.path.join(self._links, found.link)
            if not os.path.lexists(path):
                os.symlink(f"../{found.folder}/diff", path)


def _is_usable(key: str) -> bool:
    return _KEY.fullmatch(key) is not None and key not in _OWN_FOLDERS


def _graph_driver_data(own: str, lower_dir: str) -> dict[str, str]:
    """Where the parts of an overlay are; at the bottom of a stack there is nothing below."""
    found = {
        "LowerDir": lower_dir,
        "MergedDir": f"{own}/merged",
        "UpperDir": f"{own}/diff",
        "WorkDir": f"{own}/work",
    }
    return {name: value for name, value in found.items() if value}
