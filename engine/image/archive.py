"""Archives of images: save, and the documents that save and load have in common.

An archive is an OCI layout (image-spec, image-layout.md) with dockerd's own two documents beside
it: `manifest.json` says which config, layers and names make an image, `repositories` and one small
config a layer serve engines before 1.10. What is written depends on the images alone: the same
images give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from engine import gojson
from engine.errors import EngineError, NoSuchImage, NotFound
from engine.image import encoding
from engine.image.failure import InvalidArchive
from engine.image.model import created_ns
from engine.oci import digest as digests
from engine.oci import media_type
from engine.oci import platform as platforms
from engine.oci import reference as references
from engine.oci.digest import ChainId, Digest, ImageId
from engine.oci.document import Document, InvalidDocument, decode
from engine.oci.image import Config
from engine.oci.reference import Reference
from engine.storage import recipe
from engine.storage.tar import BLOCK
from engine.timestamp import SECOND

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from engine.image.catalog import Catalog
    from engine.image.model import Image
    from engine.oci.platform import Platform
    from engine.storage.snapshots import Snapshots

D = TypeVar("D")

MANIFEST = "manifest.json"
REPOSITORIES = "repositories"
BLOBS = "blobs/sha256/"
_EPOCH = "1970-01-01T00:00:00Z"


class ManifestItem(Document, frozen=True, kw_only=True, rename="pascal"):
    """An entry of manifest.json: one image."""

    config: str = ""
    repo_tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    parent: str = ""


class NoSuitablePlatform(EngineError):
    def __init__(self, wanted: Platform) -> None:
        super().__init__(f"no suitable export target found for platform {wanted}")


# What is to be saved


class NoSuchReference(NotFound):
    def __init__(self) -> None:
        super().__init__("reference does not exist")


@dataclass(slots=True)
class Selected:
    """One image and the names under which it was asked for."""

    image: Image
    names: list[Reference] = field(default_factory=list["Reference"])


def select(catalog: Catalog, refs: Sequence[str], platform: Platform | None) -> list[Selected]:
    """What is meant, in the order asked. Raises NoSuchImage, InvalidReference, EngineError."""
    selected: dict[ImageId, Selected] = {}
    for ref in refs:
        for image_id, name in _meant(catalog, ref):
            image = catalog.by_id(image_id)
            if image is None:
                raise NoSuchImage(ref)
            if platform is not None and not platforms.matches_strictly(platform, image.platform):
                raise NoSuitablePlatform(platform)
            if not image.diff_ids:
                raise EngineError("empty export - not implemented")
            entry = selected.setdefault(image_id, Selected(image))
            if name is not None and name not in entry.names:
                entry.names.append(name)
    return list(selected.values())


def _meant(catalog: Catalog, ref: str) -> list[tuple[ImageId, Reference | None]]:
    """The images a reference means, with the tag to save each under."""
    parsed = references.parse_any(ref)
    if not isinstance(parsed, Reference):
        return [(ImageId(parsed), None)]
    if parsed.is_name_only and parsed.familiar_name != digests.CANONICAL:
        named = [
            (image_id, name if name.digest is None else None)
            for name, image_id in catalog.named(parsed)
        ]
        if named:
            return named
    elif (image_id := catalog.of_reference(parsed)) is not None:
        return [(image_id, parsed if parsed.digest is None else None)]
    elif parsed.familiar_name != digests.CANONICAL:
        raise NoSuchReference
    by_prefix = catalog.by_prefix(ref)
    if by_prefix is None:
        raise NoSuchImage(ref)
    return [(by_prefix, None)]


# What is written


@dataclass(frozen=True, slots=True)
class _Member:
    """A file of the archive: its bytes, or the layer whose tar it is."""

    name: str
    mtime_s: int
    size: int
    data: bytes = b""
    layer: ChainId | None = None


class _Plan:
    """Every member of an archive, known before the first byte is written."""

    def __init__(self, catalog: Catalog, snapshots: Snapshots) -> None:
        self._catalog = catalog
        self._snapshots = snapshots
        self._blobs: dict[Digest, _Member] = {}
        self._items: list[dict[str, object]] = []
        self._index: list[dict[str, object]] = []
        self._repositories: dict[str, dict[str, str]] = {}
        self._latest_s = 0

    def add(self, selected: Selected, saved: frozenset[ImageId]) -> None:
        image = selected.image
        created = created_ns(image.config.created)
        mtime_s = max(created // SECOND, 0) if created is not None else 0
        self._latest_s = max(self._latest_s, mtime_s)
        self._add_old_configs(image, mtime_s)
        layers = self._add_layers(image, mtime_s)
        raw = self._catalog.raw_config(image.id)
        self._put(Digest(image.id), raw, mtime_s)
        self._add_manifest(selected, raw, layers)
        self._add_item(selected, layers, saved)

    def _put(self, digest: Digest, data: bytes, mtime_s: int) -> None:
        self._blobs.setdefault(
            digest, _Member(BLOBS + digests.encoded(digest), mtime_s, len(data), data)
        )

    def _add_layers(self, image: Image, mtime_s: int) -> dict[str, dict[str, object]]:
        """The layers, and what manifest.json says about each (LayerSources)."""
        sources: dict[str, dict[str, object]] = {}
        for diff_id, chain_id in zip(
            image.diff_ids, digests.chain_ids(image.diff_ids), strict=True
        ):
            size = self._snapshots.get_layer(chain_id).tar_bytes
            self._blobs.setdefault(
                Digest(diff_id),
                _Member(BLOBS + digests.encoded(diff_id), mtime_s, size, layer=chain_id),
            )
            sources[diff_id] = {
                "mediaType": media_type.OCI_LAYER,
                "size": size,
                "digest": diff_id,
            }
        return sources

    def _add_manifest(
        self, selected: Selected, raw: bytes, layers: dict[str, dict[str, object]]
    ) -> None:
        manifest = encoding.to_json(
            {
                "schemaVersion": 2,
                "mediaType": media_type.OCI_MANIFEST,
                "config": {
                    "mediaType": media_type.OCI_CONFIG,
                    "digest": selected.image.id,
                    "size": len(raw),
                },
                "layers": [
                    {
                        "mediaType": media_type.OCI_LAYER,
                        "digest": diff_id,
                        "size": layers[diff_id]["size"],
                    }
                    for diff_id in selected.image.diff_ids
                ],
            }
        )
        digest = digests.of(manifest)
        self._put(digest, manifest, 0)
        descriptor: dict[str, object] = {
            "mediaType": media_type.OCI_MANIFEST,
            "digest": digest,
            "size": len(manifest),
        }
        for name in selected.names:
            tag = name.tag or references.DEFAULT_TAG
            annotations = {
                "io.containerd.image.name": str(name),
                "org.opencontainers.image.ref.name": tag,
            }
            self._index.append({**descriptor, "annotations": annotations})
            tags = self._repositories.setdefault(name.familiar_name, {})
            tags[tag] = digests.encoded(selected.image.diff_ids[-1])
        if not selected.names:
            self._index.append(descriptor)

    def _add_item(
        self,
        selected: Selected,
        layers: dict[str, dict[str, object]],
        saved: frozenset[ImageId],
    ) -> None:
        image = selected.image
        item: dict[str, object] = {
            "Config": BLOBS + digests.encoded(image.id),
            "RepoTags": [name.familiar for name in selected.names] or None,
            "Layers": [BLOBS + digests.encoded(diff_id) for diff_id in image.diff_ids],
        }
        if image.parent in saved and image.parent != image.id:
            item["Parent"] = image.parent
        item["LayerSources"] = dict(sorted(layers.items()))
        self._items.append(item)

    def _add_old_configs(self, image: Image, mtime_s: int) -> None:
        """The config that engines before 1.10 expect beside each layer."""
        parent = ""
        chain = digests.chain_ids(image.diff_ids)
        for number, chain_id in enumerate(chain, start=1):
            old = _old_config(image, is_top=number == len(chain))
            old_id = _old_id(old, chain_id, parent)
            named = {"id": digests.encoded(old_id)}
            if parent:
                named["parent"] = digests.encoded(parent)
            document = {**named, **old}
            if image.config.os:
                document["os"] = image.config.os
            data = encoding.to_json(document)
            self._put(digests.of(data), data, mtime_s)
            parent = old_id

    def members(self) -> list[_Member]:
        """All files, in the order of their names; folders end in a slash."""
        found = [
            _Member("blobs/", self._latest_s, 0),
            _Member(BLOBS, self._latest_s, 0),
            *self._blobs.values(),
            _json(
                "index.json",
                {
                    "schemaVersion": 2,
                    "mediaType": media_type.OCI_INDEX,
                    "manifests": self._index,
                },
            ),
            _json(MANIFEST, self._items, end=b"\n"),
            _text("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
        ]
        if self._repositories:
            repositories = {n: dict(sorted(t.items())) for n, t in self._repositories.items()}
            found.append(_json(REPOSITORIES, dict(sorted(repositories.items())), end=b"\n"))
        return sorted(found, key=lambda member: member.name)


def _json(name: str, document: object, *, end: bytes = b"") -> _Member:
    return _text(name, encoding.to_json(document) + end)


def _text(name: str, data: bytes) -> _Member:
    return _Member(name, 0, len(data), data)


def _old_config(image: Image, *, is_top: bool) -> dict[str, object]:
    """Go's V1Image without id and parent."""
    config = image.config
    if not is_top:
        return {"created": _EPOCH, "container_config": encoding.config(Config())}
    document: dict[str, object] = {
        "comment": config.comment,
        "created": encoding.time(config.created) if config.created else None,
        "container": config.container,
        "container_config": encoding.config(config.container_config or Config()),
        "docker_version": config.docker_version,
        "author": config.author,
        "config": encoding.config(config.config) if config.config else None,
        "architecture": config.architecture,
        "variant": config.variant,
        "os": config.os,
    }
    return {k: v for k, v in document.items() if v or k == "created"}


def _old_id(old: dict[str, object], chain_id: ChainId, parent: str) -> Digest:
    """The name by which engines before 1.10 know the image up to a layer."""
    document = {**old, "layer_id": chain_id}
    if parent:
        document["parent"] = parent
    return digests.of(encoding.to_json(dict(sorted(document.items()))))


def save(catalog: Catalog, snapshots: Snapshots, selected: Sequence[Selected]) -> Generator[bytes]:
    """The archive in pieces. The layers are held until the iterator ends or is closed.

    Raises DamagedLayer if a layer's files are not what they were.
    """
    with snapshots.lease() as lease:
        for each in selected:
            for chain_id in digests.chain_ids(each.image.diff_ids):
                if snapshots.find_layer(chain_id, lease) is None:
                    raise NoSuchImage(each.image.id)
        plan = _Plan(catalog, snapshots)
        saved = frozenset(each.image.id for each in selected)
        for each in selected:
            plan.add(each, saved)
        for member in plan.members():
            yield _header(member)
            if member.layer is not None:
                yield from _verified(snapshots, member)
            else:
                yield member.data
            yield bytes(-member.size % BLOCK)
    yield bytes(2 * BLOCK)


def _verified(snapshots: Snapshots, member: _Member) -> Iterator[bytes]:
    """A layer's tar; what is not the layer of that name must not pass for it."""
    assert member.layer is not None
    digest = digests.hasher()
    for piece in snapshots.layer_tar(member.layer):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != member.name.removeprefix(BLOBS):
        raise recipe.DamagedLayer(f"layer {member.layer} is not what it was when it was unpacked")


def _header(member: _Member) -> bytes:
    """A ustar header as Go writes it; sizes beyond eight octets' worth get a PAX header too."""
    is_folder = member.name.endswith("/")
    mode, type_flag = (0o755, b"5") if is_folder else (0o644, b"0")
    pax = b""
    size = member.size
    if size >= 1 << 33:
        record = _pax_record(b"size", b"%d" % size)
        pax = _block(f"PaxHeaders.0/{member.name[:80]}", 0o644, len(record), 0, b"x")
        pax += record + bytes(-len(record) % BLOCK)
        size = 0
    return pax + _block(member.name, mode, size, member.mtime_s, type_flag)


def _block(name: str, mode: int, size: int, mtime_s: int, type_flag: bytes) -> bytes:
    head = name.encode().ljust(100, b"\0") + b"%07o\0%07o\0%07o\0" % (mode, 0, 0)
    head += b"%011o\0%011o\0" % (size, min(mtime_s, 0o77777777777))
    tail = type_flag + bytes(100) + b"ustar\0" + b"00" + bytes(64)
    tail += b"%07o\0%07o\0" % (0, 0) + bytes(155 + 12)
    checksum = sum(head) + sum(tail) + 8 * 32
    return head + b"%06o\0 " % checksum + tail


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`length SP key=value LF`, the length counting itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


# What is read


def decode_manifest(data: bytes) -> list[ManifestItem]:
    """manifest.json; raises InvalidArchive."""
    data = data[: gojson.end_of_first(data)].strip()
    if data == b"null":
        raise InvalidArchive("invalid manifest, manifest cannot be null (but can be [])")
    items = _decode_first(data, list[ManifestItem | None])
    return [ManifestItem() if item is None else item for item in items]


def decode_repositories(data: bytes) -> dict[str, dict[str, str]]:
    """repositories: the old id of each tag of each name. Raises InvalidArchive."""
    return _decode_first(data, dict[str, dict[str, str]])


def _decode_first(data: bytes, type: type[D]) -> D:
    """The first document in `data` as Go's stream decoder takes it: what follows is not read."""
    if not data.strip():
        raise InvalidArchive("EOF")
    try:
        return decode(data[: gojson.end_of_first(data)], type, largest_bytes=len(data))
    except InvalidDocument as exc:
        said = str(exc)
        raise InvalidArchive(gojson.UNEXPECTED_EOF if said == gojson.TRUNCATED else said) from exc
