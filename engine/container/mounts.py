"""What users write about mounts, and what it means: `-v`, `--mount`, `--tmpfs`, `--volumes-from`.

Pure: nothing is looked up or made. A `MountPoint` that comes out of here still lacks the source of
its volume; whether a bind's source exists is asked by who may touch the disk. Sentences and rules
are those of moby volume/mounts/linux_parser.go.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import msgspec

from engine.container.model import (
    BindOptions,
    MountPoint,
    MountRequest,
    MountType,
    VolumeOptions,
)
from engine.errors import InvalidParameter, Unclassified

if TYPE_CHECKING:
    from engine.container.model import TmpfsOptions

PROPAGATIONS = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
DEFAULT_PROPAGATION = "rprivate"

_ACCESS = frozenset({"ro", "rw"})
_LABELS = frozenset({"z", "Z"})
_COPY = frozenset({"nocopy"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated", "default"})
_GROUPS = (_ACCESS, _LABELS, PROPAGATIONS, _COPY, _CONSISTENCY)

# Flags of mount(8) that a tmpfs may be given, each with what it excludes; `size=` and the like
# stand in _TMPFS_DATA. Facts of moby/sys mount/flags_unix.go.
_TMPFS_FLAGS = {
    **dict.fromkeys(("ro", "rw"), "ro"),
    **dict.fromkeys(("suid", "nosuid"), "suid"),
    **dict.fromkeys(("dev", "nodev"), "dev"),
    **dict.fromkeys(("exec", "noexec"), "exec"),
    **dict.fromkeys(("sync", "async"), "sync"),
    **dict.fromkeys(("dirsync",), "dirsync"),
    **dict.fromkeys(("mand", "nomand"), "mand"),
    **dict.fromkeys(("atime", "noatime"), "atime"),
    **dict.fromkeys(("diratime", "nodiratime"), "diratime"),
    **dict.fromkeys(("relatime", "norelatime"), "relatime"),
    **dict.fromkeys(("strictatime", "nostrictatime"), "strictatime"),
    **dict.fromkeys((*PROPAGATIONS, "unbindable", "runbindable", "bind", "rbind"), "propagation"),
}
_TMPFS_DATA = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})
_TMPFS_SAFE = ("noexec", "nosuid", "nodev", DEFAULT_PROPAGATION)
_TMPFS_OPTIONS = frozenset({"exec", "noexec"})


class InvalidMount(InvalidParameter):
    """`cause` says what is wrong with a mount of this type."""

    def __init__(self, type: str, cause: str) -> None:
        super().__init__(f'invalid mount config for type "{type}": {cause}')


class DuplicateMountPoint(InvalidParameter):
    def __init__(self, target: str) -> None:
        super().__init__(f"Duplicate mount point: {target}")


# -v


def parse_bind(raw: str, volume_driver: str = "") -> MountPoint:
    """`[source:]target[:options]`; an absolute source is a path, any other a volume's name."""
    source, target, mode = _split_bind(raw)
    if not _is_mode(mode):
        raise Unclassified(f"invalid mode: {mode}")
    options = mode.split(",")
    is_bind = source.startswith("/")
    request = MountRequest(
        type=MountType.BIND if is_bind else MountType.VOLUME,
        source=source,
        target=target,
        read_only="ro" in options,
        bind_options=_bind_options(options),
        volume_options=_volume_options(options, volume_driver, is_bind=is_bind),
    )
    try:
        point = parse_mount(request)
    except InvalidParameter as exc:
        raise Unclassified(f"invalid volume specification: '{raw}': {exc}") from exc
    return msgspec.structs.replace(point, mode=mode)


def _split_bind(raw: str) -> tuple[str, str, str]:
    parts = raw.split(":")
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and _is_mode(parts[1])):
        raise Unclassified(f"invalid volume specification: '{raw}'")
    if len(parts) == 1:
        return "", parts[0], ""
    return parts[0], parts[1], parts[2] if len(parts) == 3 else ""


def _is_mode(mode: str) -> bool:
    """Known words, at most one of each group; "" is fine."""
    if not mode:
        return True
    words = mode.split(",")
    counts = [sum(word in group for word in words) for group in _GROUPS]
    return sum(counts) == len(words) and max(counts) <= 1


def _bind_options(options: list[str]) -> BindOptions | None:
    chosen = [word for word in options if word in PROPAGATIONS]
    return BindOptions(propagation=chosen[0]) if chosen else None


def _volume_options(options: list[str], driver: str, *, is_bind: bool) -> VolumeOptions | None:
    no_copy = "nocopy" in options
    if (is_bind or not driver) and not no_copy:
        return None
    name = "" if is_bind else driver
    return VolumeOptions(no_copy=no_copy, driver_name=name, has_driver_config=bool(name))


# --mount


def parse_mount(request: MountRequest) -> MountPoint:
    """The mount point asked for; raises InvalidMount. Sources of binds are not looked at."""
    check_mount(request)
    kind = MountType(request.type)
    options = request.volume_options or VolumeOptions()
    is_volume, is_bind = kind is MountType.VOLUME, kind is MountType.BIND
    return MountPoint(
        type=kind,
        source=_clean(request.source) if is_bind else "",
        destination=_clean(request.target),
        name="" if is_bind or kind is MountType.TMPFS else request.source,
        driver=options.driver_name if is_volume else "",
        is_writable=not request.read_only and kind is not MountType.IMAGE,
        propagation=_propagation(request, kind),
        no_copy=is_volume and options.no_copy,
        is_anonymous=is_volume and not request.source,
        subpath=options.subpath if is_volume else request.image_subpath or "",
        spec=request,
    )


def _propagation(request: MountRequest, kind: MountType) -> str:
    if kind not in (MountType.BIND, MountType.IMAGE):
        return ""
    chosen = request.bind_options.propagation if request.bind_options else ""
    return chosen or DEFAULT_PROPAGATION


def check_mount(request: MountRequest) -> None:
    """Raise InvalidMount for what can never be mounted."""
    if not request.target:
        raise InvalidMount(request.type, "field Target must not be empty")
    check_target(request.target, request.type)
    match request.type:
        case MountType.BIND:
            _check_bind(request)
        case MountType.VOLUME:
            _check_volume(request)
        case MountType.TMPFS:
            _check_tmpfs(request)
        case MountType.IMAGE:
            _check_image(request)
        case _:
            raise InvalidMount(request.type, "mount type unknown")


def check_target(target: str, type: str = "") -> None:
    """A target is absolute and not the root; without `type` the sentence is the bare one."""
    cause = ""
    if not target:
        cause = "invalid mount path: '' mount path must be absolute"
    elif not posixpath.normpath(target).strip("/"):
        cause = "invalid specification: destination can't be '/'"
    elif not target.startswith("/"):
        cause = f"invalid mount path: '{target}' mount path must be absolute"
    if cause:
        raise InvalidMount(type, cause) if type else InvalidParameter(cause)


def _check_bind(request: MountRequest) -> None:
    _require_source(request)
    options = request.bind_options or BindOptions()
    if options.propagation and options.propagation not in PROPAGATIONS:
        raise InvalidMount(request.type, f"invalid propagation mode: {options.propagation}")
    _refuse(request, volume_options=True, image_options=True)
    if not request.source.startswith("/"):
        cause = f"invalid mount path: '{request.source}' mount path must be absolute"
        raise InvalidMount(request.type, cause)


def check_recursion(point: MountPoint) -> None:
    """How far down a bind is read-only; dockerd finds out at start that this cannot be."""
    options = (point.spec and point.spec.bind_options) or BindOptions()
    read_only = not point.is_writable
    if not read_only and options.read_only_non_recursive:
        raise InvalidParameter(
            "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive"
        )
    if not read_only and options.read_only_force_recursive:
        raise InvalidParameter(
            "mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive"
        )
    if options.read_only_non_recursive and options.read_only_force_recursive:
        raise InvalidParameter(
            "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"
        )


def _check_volume(request: MountRequest) -> None:
    _refuse(request, bind_options=True, image_options=True)
    subpath = request.volume_options.subpath if request.volume_options else ""
    if subpath and not request.source:
        raise InvalidMount(request.type, "must not set Subpath when using anonymous volumes")
    _check_subpath(request.type, subpath)
    if request.read_only and not request.source:
        raise InvalidMount(request.type, "must not set ReadOnly mode when using anonymous volumes")


def _check_tmpfs(request: MountRequest) -> None:
    _refuse(request, bind_options=True, image_options=True)
    if request.source:
        raise InvalidMount(request.type, "field Source must not be specified")
    try:
        tmpfs_data(request.tmpfs_options, read_only=request.read_only)
    except InvalidParameter as exc:
        raise InvalidMount(request.type, str(exc)) from exc


def _check_image(request: MountRequest) -> None:
    _refuse(request, bind_options=True, volume_options=True)
    _require_source(request)
    _check_subpath(request.type, request.image_subpath or "")


def _require_source(request: MountRequest) -> None:
    if not request.source:
        raise InvalidMount(request.type, "field Source must not be empty")


def _refuse(
    request: MountRequest,
    *,
    bind_options: bool = False,
    volume_options: bool = False,
    image_options: bool = False,
) -> None:
    for refused, value, name in (
        (bind_options, request.bind_options, "BindOptions"),
        (volume_options, request.volume_options, "VolumeOptions"),
        (image_options, request.image_subpath, "ImageOptions"),
    ):
        if refused and value is not None:
            raise InvalidMount(request.type, f"field {name} must not be specified")


def _check_subpath(type: str, subpath: str) -> None:
    """Lexically beneath; that no symlink leads out is seen to when it is opened."""
    if subpath and (subpath.startswith("/") or ".." in posixpath.normpath(subpath).split("/")):
        raise InvalidMount(type, "subpath must be a relative path within the volume")


# tmpfs


def tmpfs_data(options: TmpfsOptions | None, *, read_only: bool) -> str:
    """The options of a `--mount type=tmpfs` as `--tmpfs` would spell them."""
    words = ["ro"] if read_only else []
    if options is not None:
        words += [f"mode={options.mode:o}"] if options.mode else []
        words += [f"size={_size(options.size_bytes)}"] if options.size_bytes else []
        words += [_tmpfs_option(option) for option in options.options]
    return ",".join(words)


def _size(size: int) -> str:
    for shift, suffix in ((30, "g"), (20, "m"), (10, "k")):
        if size % (1 << shift) == 0:
            return f"{size >> shift}{suffix}"
    return str(size)


def _tmpfs_option(option: tuple[str, ...]) -> str:
    if not 1 <= len(option) <= 2:
        raise InvalidParameter("invalid option array length")
    if option[0] not in _TMPFS_OPTIONS:
        raise InvalidParameter(f"invalid option: {option[0]}")
    return "=".join(option)


def tmpfs_options(data: str) -> tuple[str, ...]:
    """What a tmpfs is mounted with: safe defaults under what was asked; the last word wins."""
    taken: set[str] = set()
    kept: list[str] = []
    for word in reversed([*_TMPFS_SAFE, *(data.split(",") if data else ())]):
        if word == "defaults":
            continue
        key, has_value, _ = word.partition("=")
        slot = _TMPFS_FLAGS.get(word) or (f"{key}=" if has_value and key in _TMPFS_DATA else "")
        if not slot:
            raise Unclassified(f'invalid tmpfs option "{key}"')
        if slot not in taken:
            taken.add(slot)
            kept.insert(0, word)
    return tuple(kept)


# --volumes-from


def parse_volumes_from(text: str) -> tuple[str, bool]:
    """(container, whether its volumes may be written here)."""
    if not text:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    ref, _, mode = text.partition(":")
    words = mode.split(",")
    if not _is_mode(mode) or any(word in PROPAGATIONS or word in _COPY for word in words):
        raise InvalidParameter(f"invalid mode: {mode}")
    return ref, "ro" not in words


def inherited(point: MountPoint, *, writable: bool) -> MountPoint:
    """A mount point of another container as `--volumes-from` takes it over."""
    return msgspec.structs.replace(
        point,
        is_writable=point.is_writable and writable,
        no_copy=True,
        is_inherited=True,
        mode="",
    )


def _clean(path: str) -> str:
    cleaned = posixpath.normpath(path)
    return "/" + cleaned.lstrip("/") if path.startswith("/") else cleaned


def depth(destination: str) -> int:
    """Mounts are made in this order, so that none hides another made before it."""
    return posixpath.normpath(destination).count("/")
