"""Writing config and manifest as dockerd writes them, byte for byte: digests are made of them.

Go's encoding/json keeps the order of a struct's fields, sorts maps, escapes `<`, `>` and `&`, and
leaves out what is marked omitempty. dockerd then sorts the top level by key.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from engine import timestamp
from engine.oci import media_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.oci.descriptor import Descriptor
    from engine.oci.image import Config, Healthcheck, History

# U+2028 and U+2029 are line ends to JavaScript.
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def to_json(document: object) -> bytes:
    """A document in the order it has, in Go's spelling."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    for char, escaped in _ESCAPES.items():
        text = text.replace(char, escaped)
    return text.encode(errors="replace")


def manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """A Docker manifest, schema 2, as distribution writes it: three spaces to a level."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_type.DOCKER_MANIFEST,
        "config": _descriptor(config),
        "layers": [_descriptor(layer) for layer in layers],
    }
    return json.dumps(document, ensure_ascii=False, indent=3).encode()


def _descriptor(found: Descriptor) -> dict[str, object]:
    return {"mediaType": found.media_type, "size": found.size, "digest": found.digest}


def time(text: str) -> str:
    """A moment as Go writes it again: no zeros at the end of the fraction, the offset kept."""
    try:
        moment = timestamp.format_ns(timestamp.parse_ns(text))
    except ValueError:
        return text
    offset = text[-6:] if text[-6:-5] in ("+", "-") and text[-3:-2] == ":" else "Z"
    if offset in ("Z", "+00:00", "-00:00"):
        return moment
    local = text[:-6]
    whole, dot, fraction = local.partition(".")
    fraction = fraction[:9].rstrip("0")
    return f"{whole}{dot if fraction else ''}{fraction}{offset}"


def config(config: Config) -> dict[str, object]:
    """container.Config (moby api/types/container) in its own order."""
    document: dict[str, object] = {
        "Hostname": config.hostname,
        "Domainname": config.domainname,
        "User": config.user,
        "AttachStdin": config.attach_stdin,
        "AttachStdout": config.attach_stdout,
        "AttachStderr": config.attach_stderr,
        **_present(ExposedPorts=_sorted(config.exposed_ports)),
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": config.env,
        "Cmd": config.cmd,
        **_present(Healthcheck=_healthcheck(config.healthcheck), ArgsEscaped=config.args_escaped),
        "Image": config.image,
        "Volumes": _sorted(config.volumes),
        "WorkingDir": config.working_dir,
        "Entrypoint": config.entrypoint,
        **_present(NetworkDisabled=config.network_disabled, MacAddress=config.mac_address),
        "OnBuild": config.on_build,
        "Labels": _sorted(config.labels),
        **_present(StopSignal=config.stop_signal),
    }
    if config.stop_timeout is not None:
        document["StopTimeout"] = config.stop_timeout
    return document | _present(Shell=config.shell)


def _healthcheck(check: Healthcheck | None) -> dict[str, object] | None:
    if check is None:
        return None
    found = _present(
        Test=check.test,
        Interval=check.interval,
        Timeout=check.timeout,
        StartPeriod=check.start_period,
        StartInterval=check.start_interval,
        Retries=check.retries,
    )
    # A pointer in Go: what it points to is shown even if it is all empty.
    return found or _Empty()


class _Empty(dict[str, object]):
    """An object without keys that is shown."""

    def __bool__(self) -> bool:
        return True


def _present(**fields: object) -> dict[str, object]:
    """Fields marked omitempty: those that are not empty."""
    return {name: value for name, value in fields.items() if value}


def _sorted(mapping: Mapping[str, object] | None) -> dict[str, object] | None:
    return None if mapping is None else dict(sorted(mapping.items()))


def history(entry: History) -> dict[str, object]:
    """image-spec's History in its own order."""
    return _present(
        created=time(entry.created),
        created_by=entry.created_by,
        author=entry.author,
        comment=entry.comment,
        empty_layer=entry.empty_layer,
    )


def image(
    *,
    config_: Config | None,
    container_config: Config,
    created: str,
    diff_ids: Sequence[str],
    history_: Sequence[History],
    architecture: str,
    os: str,
    variant: str = "",
    author: str = "",
    comment: str = "",
    container: str = "",
    docker_version: str = "",
    os_version: str = "",
    os_features: Sequence[str] = (),
) -> bytes:
    """The config document of a new image, as dockerd writes it."""
    document: dict[str, object] = {
        "container_config": config(container_config),
        "created": created,
        "rootfs": {"type": "layers", **_present(diff_ids=list(diff_ids))},
        **_present(
            architecture=architecture,
            author=author,
            comment=comment,
            container=container,
            docker_version=docker_version,
            history=[history(entry) for entry in history_],
            os=os,
            os_features=list(os_features),
            variant=variant,
        ),
    }
    for name, value in (("os.version", os_version), ("os.features", list(os_features))):
        document.pop(name.replace(".", "_"), None)
        if value:
            document[name] = value
    if config_ is not None:
        document["config"] = config(config_)
    return to_json(dict(sorted(document.items())))
