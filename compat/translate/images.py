"""Images, from the engine's model to the API's shapes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from compat.translate.responses import NEVER, moment
from compat.wire import images as wire
from compat.wire.base import UNSET
from compat.wire.containers import GraphDriver
from engine import timestamp
from engine.errors import Forbidden, InvalidParameter
from engine.oci import digest as digests
from engine.oci import reference as references
from engine.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.image import model
    from engine.oci.descriptor import Descriptor
    from engine.oci.image import Config
    from engine.oci.reference import Reference
    from engine.registry.search import SearchResult

# Always shown, set or not; the second half until 1.50.
_SHOWN: dict[str, object] = {
    **dict.fromkeys(("Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes")),
    "User": "",
    "WorkingDir": "",
}
_SHOWN_BEFORE: dict[str, object] = {
    **dict.fromkeys(("AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin"), False),
    **dict.fromkeys(("StdinOnce", "Tty"), False),
    **dict.fromkeys(("Domainname", "Hostname", "Image"), ""),
}

_RESERVED = "scratch"

_encoder = msgspec.json.Encoder(order="deterministic")


def summary(listed: model.Summary) -> wire.ImageSummary:
    image = listed.image
    return wire.ImageSummary(
        containers=listed.containers,
        created=listed.created_s,
        id=image.id,
        labels=image.config.config.labels if image.config.config else None,
        parent_id=image.parent or "",
        repo_digests=listed.repo_digests,
        repo_tags=listed.repo_tags,
        shared_size=listed.shared_size_bytes,
        size=image.size_bytes,
    )


def search_result(found: SearchResult) -> wire.SearchResult:
    return wire.SearchResult(
        star_count=found.star_count,
        is_official=found.is_official,
        name=found.name,
        is_automated=False,
        description=found.description,
    )


def inspect(view: model.ImageView, *, with_runtime_fields: bool) -> wire.ImageInspectResponse:
    """`with_runtime_fields`: before 1.50 fields that only containers have were shown too."""
    image = view.image
    document = image.config
    created_ns = image.created_ns
    return wire.ImageInspectResponse(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        parent=image.parent or "",
        comment=view.comment,
        created=UNSET if created_ns is None else timestamp.format_ns(created_ns),
        docker_version=document.docker_version,
        author=document.author,
        architecture=document.architecture,
        variant=document.variant or UNSET,
        os=document.os or "linux",
        os_version=document.os_version or UNSET,
        size=image.size_bytes,
        graph_driver=GraphDriver(data=view.directories or None, name=view.driver),
        root_fs=wire.RootFS(type="layers", layers=tuple(image.diff_ids) or UNSET),
        metadata=wire.ImageMetadata(
            last_tag_time=moment(image.row.last_tagged_ns) if image.row.last_tagged_ns else NEVER
        ),
        config=_config(document.config, with_runtime_fields=with_runtime_fields),
    )


def _config(kept: Config | None, *, with_runtime_fields: bool) -> msgspec.Raw:
    shown = dict(_SHOWN)
    if with_runtime_fields:
        shown |= _SHOWN_BEFORE
    if kept is not None:
        said: dict[str, object] = {
            "Cmd": kept.cmd,
            "Entrypoint": kept.entrypoint,
            "Env": kept.env,
            "Labels": kept.labels,
            "OnBuild": kept.on_build,
            "Volumes": kept.volumes,
            "User": kept.user,
            "WorkingDir": kept.working_dir,
            "ExposedPorts": kept.exposed_ports,
            "StopSignal": kept.stop_signal,
            "ArgsEscaped": kept.args_escaped,
            "Healthcheck": kept.healthcheck,
            "Shell": kept.shell,
        }
        shown |= {name: value for name, value in said.items() if value}
    return msgspec.Raw(_encoder.encode(shown))


def history(item: model.HistoryItem) -> wire.HistoryItem:
    return wire.HistoryItem(
        comment=item.comment,
        created=item.created_s,
        created_by=item.created_by,
        id=item.id,
        size=item.size_bytes,
        tags=item.tags,
    )


def removed(items: Iterable[model.Removed]) -> tuple[wire.ImageDeleteItem, ...]:
    return tuple(
        wire.ImageDeleteItem(deleted=i.deleted or UNSET, untagged=i.untagged or UNSET)
        for i in items
    )


def descriptor(found: Descriptor) -> wire.Descriptor:
    return wire.Descriptor(
        media_type=found.media_type,
        digest=found.digest,
        size=found.size,
        urls=found.urls or UNSET,
        annotations=found.annotations or UNSET,
        platform=UNSET if found.platform is None else platform(found.platform),
    )


def platform(found: Platform) -> wire.Platform:
    return wire.Platform(
        architecture=found.architecture,
        os=found.os,
        os_version=found.os_version or UNSET,
        os_features=found.os_features or UNSET,
        variant=found.variant or UNSET,
    )


def to_platform(sent: wire.Platform) -> Platform:
    """Raises InvalidParameter (moby httputils.DecodePlatform)."""
    if not sent.os and not sent.architecture and (sent.variant or sent.os_version):
        raise InvalidParameter(
            "optional platform fields provided, but OS and Architecture are missing"
        )
    if not sent.os or not sent.architecture:
        raise InvalidParameter("both OS and Architecture must be provided")
    return Platform(
        os=sent.os,
        architecture=sent.architecture,
        variant=sent.variant or "",
        os_version=sent.os_version or "",
        os_features=sent.os_features or None,
    )


def to_pull(name: str, tag_or_digest: str) -> Reference:
    """What is meant; a name alone means all its tags. Raises InvalidParameter, Forbidden."""
    ref = references.parse(name.removesuffix(":"))
    if tag_or_digest and digests.is_digest(tag_or_digest):
        ref = ref.name_only().with_digest(digests.parse(tag_or_digest))
    elif tag_or_digest:
        ref = ref.with_tag(tag_or_digest)
    if ref.familiar_name == _RESERVED:
        raise Forbidden(f"'{_RESERVED}' is a reserved name")
    return ref


def to_push(name: str, tag: str) -> Reference:
    """What is meant; a name alone means all its tags. Raises InvalidParameter."""
    ref = references.parse(name)
    return ref.with_tag(tag) if tag else ref


# Progress


def progress(step: model.Progress) -> wire.ProgressLine:
    """One line of the stream. A bar is drawn for clients that only print (docker/go-units)."""
    if step.error:
        return wire.ProgressLine(
            error_detail=wire.ErrorDetail(message=step.error), error=step.error
        )
    if step.stream:
        return wire.ProgressLine(stream=step.stream, aux=step.aux or UNSET)
    if step.aux and not step.status:
        return wire.ProgressLine(progress_detail=wire.ProgressDetail(), aux=step.aux)
    return wire.ProgressLine(
        status=step.status,
        progress_detail=_detail(step),
        progress=_bar(step.current or 0, step.total or 0) or UNSET,
        id=step.id or UNSET,
        aux=step.aux or UNSET,
    )


def _detail(step: model.Progress) -> wire.ProgressDetail | msgspec.UnsetType:
    """Of a layer there always is one, if an empty one; sentences about the whole have none."""
    if step.current or step.total:
        return wire.ProgressDetail(current=step.current or UNSET, total=step.total or UNSET)
    is_sentence = not step.id or step.status.startswith("Pulling from ")
    return UNSET if is_sentence else wire.ProgressDetail()


def _bar(current: int, total: int) -> str:
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{size(current):>8}"
    done = min(int(current / total * 100) // 2, 50)
    counts = f"{size(current):>8}" if current > total else f"{size(current):>8}/{size(total)}"
    return f"[{'=' * done}>{' ' * (50 - done)}] {counts}"


def size(count: int) -> str:
    """Bytes in four digits and a decimal unit: "1.984MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.4g}{unit}"
        value /= 1000
    raise AssertionError("unreachable")
