"""What of a registry's documents is an image, and which of them is for this host.

Pure, but for a look at the processor. The sentences are dockerd's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from engine.errors import EngineError, InvalidParameter, WharfError
from engine.oci import digest as digests
from engine.oci import media_type, platform
from engine.oci.image import Index, Manifest
from engine.registry.failure import Unsupported
from engine.storage.snapshots import DEEPEST

if TYPE_CHECKING:
    from engine.oci.descriptor import Descriptor
    from engine.oci.image import ImageConfig
    from engine.oci.platform import Platform
    from engine.registry.client import Resolved

# Prefixes of what a container can be made of, and what old builders wrote instead
# (moby distribution/pull_v2.go supportedMediaTypes).
_SUPPORTED = ("application/vnd.oci.image", "application/vnd.docker")
_TOLERATED = frozenset({"application/octet-stream", "application/json", "text/html", ""})
_AI_MODEL = "application/vnd.docker.ai."

DEEPEST_INDEX = 8
"""An index may name indexes; one that goes on like this is no image."""


class RegistrationFailed(EngineError):
    """A layer that arrived cannot be made one."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"failed to register layer: {cause}")


class RootFSMismatch(EngineError):
    def __init__(self) -> None:
        super().__init__("layers from manifest don't match image configuration")


class UnsupportedMediaType(Unsupported):
    def __init__(self, found: str) -> None:
        super().__init__(f"unsupported media type {found}")


class RemoteIsNoImage(Unsupported):
    """A Docker manifest whose config is that of something else."""

    def __init__(self, config_type: str) -> None:
        kind = "plugin" if config_type == media_type.DOCKER_PLUGIN_CONFIG else "unknown"
        super().__init__(f'Encountered remote "{config_type}"({kind}) when fetching')


class AIModelUnsupported(Unsupported):
    def __init__(self) -> None:
        super().__init__(
            "AI models are not yet supported by the Engine, "
            'please use "docker model pull/run" instead'
        )


def choose(index: Index, wanted: Platform) -> list[Descriptor]:
    """The manifests of the index that run on `wanted`, the best first.

    One that names no platform may be anything, and comes last.
    """
    ranked: list[tuple[int, Descriptor]] = []
    for descriptor in index.manifests:
        if descriptor.media_type and not _is_document(descriptor.media_type):
            continue
        if descriptor.platform is None or not descriptor.platform.os:
            ranked.append((1 << 30, descriptor))
        elif (rank := platform.rank(wanted, descriptor.platform)) is not None:
            ranked.append((rank, descriptor))
    ranked.sort(key=lambda pair: pair[0])
    return [descriptor for _, descriptor in ranked]


def _is_document(found: str) -> bool:
    return media_type.is_manifest(found) or media_type.is_index(found)


def check_is_image(found: Resolved) -> None:
    """Raises RemoteIsNoImage for plugins and the like, told by the config of a Docker manifest."""
    document = found.document
    if isinstance(document, Index) or found.descriptor.media_type != media_type.DOCKER_MANIFEST:
        return
    kind = document.config.media_type
    if kind not in media_type.CONFIGS and kind not in _TOLERATED:
        raise RemoteIsNoImage(kind)


def check_media_types(manifest: Manifest) -> None:
    """Raises Unsupported unless config and layers are those of an image."""
    for descriptor in (manifest.config, *manifest.layers):
        _check_media_type(descriptor.media_type)
    for layer in manifest.layers:
        try:
            digests.parse(layer.digest)
        except WharfError as exc:
            text = f'could not validate layer digest "{layer.digest}": {exc}'
            raise InvalidParameter(text) from exc


def _check_media_type(found: str) -> None:
    lower = found.lower()
    if lower.startswith(_AI_MODEL):
        raise AIModelUnsupported
    if lower in _TOLERATED:
        return
    if not any(lower == prefix or lower.startswith(f"{prefix}.") for prefix in _SUPPORTED):
        raise UnsupportedMediaType(found)


def check_config(config: ImageConfig, manifest: Manifest) -> None:
    """Raises where the config is not for this system or not of these layers, or of too many."""
    if config.os.lower() not in {"", "linux"}:
        raise InvalidParameter(
            f'image operating system "{config.os}" cannot be used on this platform: '
            "operating system is not supported"
        )
    if len(config.diff_ids) != len(manifest.layers):
        raise RootFSMismatch
    if len(config.diff_ids) > DEEPEST:
        raise RegistrationFailed("max depth exceeded")


# x86-64-v2 and up, as flags of /proc/cpuinfo (x86-64 psABI, §3.1.1 Micro-architecture levels).
_LEVELS = (
    ("v2", {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    ("v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)


@functools.cache
def host_platform() -> Platform:
    """This host at its best: an index may have a variant for newer processors."""
    found = platform.default()
    if found.architecture != "amd64":
        return found
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((line for line in file if line.startswith("flags")), "")
    return msgspec.structs.replace(found, variant=level(set(flags.split())))


def level(flags: set[str]) -> str:
    """The highest level of x86-64 that these processor flags make, "" for the first."""
    reached = ""
    for name, needed in _LEVELS:
        if not needed <= flags:
            break
        reached = name
    return reached
