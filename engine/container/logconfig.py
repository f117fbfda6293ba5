"""Where a container's output is kept: drivers, their options, and the plan for the monitor."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine import literals, patterns
from engine.container.model import LogConfig
from engine.errors import EngineError, InvalidParameter, NotImplementedHere, WharfError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.container.model import Config

DEFAULT_MAX_SIZE_BYTES = 20 * 1000 * 1000
DEFAULT_MAX_FILE = 3
_MOST_FILES = 100_000  # each is renamed when a new one begins

_OPTIONS = frozenset(
    {"max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag"}
)
_FIELD = re.compile(r"\{\{ *\.(\w+) *\}\}", re.ASCII)
# Fields and methods of moby's logger.Info that make a text.
_FIELDS = frozenset(
    {
        "Command",
        "Config",
        "ContainerArgs",
        "ContainerCreated",
        "ContainerEntrypoint",
        "ContainerEnv",
        "ContainerID",
        "ContainerImageID",
        "ContainerImageName",
        "ContainerLabels",
        "ContainerName",
        "DaemonName",
        "FullID",
        "Hostname",
        "ID",
        "ImageFullID",
        "ImageName",
        "LogPath",
        "Name",
    }
)
_COMMON = frozenset({"mode", "max-buffer-size"})
_ELSEWHERE = frozenset(
    {
        "awslogs",
        "etwlogs",
        "fluentd",
        "gcplogs",
        "gelf",
        "journald",
        "local",
        "logentries",
        "splunk",
        "syslog",
    }
)


class LoggingFailure(EngineError):
    """The log cannot be opened as asked; dockerd finds out at start."""

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(
            f"failed to create task for container: failed to initialize logging driver: {cause}"
        )


def complete(asked: LogConfig, *, driver: str, options: Mapping[str, str]) -> LogConfig:
    """The config with the daemon's defaults under it; raises for what no driver knows."""
    type_ = asked.type or driver
    inherited: Mapping[str, str] = options if type_ == driver else {}
    config = {**inherited, **asked.config}
    _check(type_, config)
    return LogConfig(type=type_, config=config)


def check_default(driver: str, options: Mapping[str, str]) -> None:
    """The daemon's own choice, at its start; raises EngineError."""
    try:
        _check(driver, options)
    except WharfError as exc:
        raise EngineError(f"failed to set log opts: {exc}") from exc


def doubts(driver: str, options: Mapping[str, str]) -> str:
    """What dockerd takes from its configuration as well, and no container then starts with; ""."""
    if driver != "json-file":
        return ""
    try:
        _max_size(options)
        _max_file(options)
        _compress(options)
        for name in ("labels-regex", "env-regex"):
            _matching(options.get(name, ""), {})
        _tag(options.get("tag", ""), container_id="", name="", image="")
    except LoggingFailure as exc:
        return f"log-opts: no container starts with the daemon's own: {exc.cause}"
    return ""


def _check(type_: str, config: Mapping[str, str]) -> None:
    if type_ == "none":
        return
    _check_mode(config)
    if type_ in _ELSEWHERE:
        raise NotImplementedHere(f'log driver "{type_}" is not implemented by this engine')
    if type_ != "json-file":
        raise InvalidParameter(
            f'error looking up logging plugin {type_}: plugin "{type_}" not found'
        )
    for name in config:
        if name not in _OPTIONS and name not in _COMMON:
            raise InvalidParameter(f"unknown log opt '{name}' for json-file log driver")


def _check_mode(config: Mapping[str, str]) -> None:
    mode = config.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in config:
        if mode != "non-blocking":
            raise InvalidParameter(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        try:
            literals.size_bytes(config["max-buffer-size"])
        except ValueError as exc:
            raise InvalidParameter(f"error parsing option max-buffer-size: {exc}") from exc


def plan(
    config: LogConfig, path: str, container: Config, *, container_id: str, name: str, image: str
) -> dict[str, object]:
    """What the monitor is told; raises LoggingFailure. Sizes in bytes, -1 for no limit."""
    if config.type == "none":
        return {"driver": "none"}
    options = config.config
    return {
        "driver": config.type,
        "path": path,
        "max_size": _max_size(options),
        "max_file": _max_file(options),
        "compress": _compress(options),
        "attrs": attributes(options, container, container_id=container_id, name=name, image=image),
    }


def _max_size(options: Mapping[str, str]) -> int:
    text = options.get("max-size")
    if text is None:
        return DEFAULT_MAX_SIZE_BYTES
    try:
        size = literals.decimal_size_bytes(text)
    except ValueError as exc:
        raise LoggingFailure(str(exc)) from exc
    if size <= 0:
        raise LoggingFailure("max-size must be a positive number")
    return size


def _max_file(options: Mapping[str, str]) -> int:
    """Files kept; once a size is named the default is one, as in dockerd."""
    text = options.get("max-file")
    if text is None:
        return 1 if "max-size" in options else DEFAULT_MAX_FILE
    try:
        number = literals.integer(text)
    except ValueError as exc:
        raise LoggingFailure(str(exc)) from None
    if number < 1:
        raise LoggingFailure("max-file cannot be less than 1")
    return min(number, _MOST_FILES)


def _compress(options: Mapping[str, str]) -> bool:
    try:
        compress = literals.boolean(options.get("compress", "false"))
    except ValueError as exc:
        raise LoggingFailure(str(exc)) from None
    if compress and ("max-size" not in options or _max_file(options) < 2):
        raise LoggingFailure(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        )
    return compress


def attributes(
    options: Mapping[str, str], container: Config, *, container_id: str, name: str, image: str
) -> dict[str, str]:
    """What every record carries beside its text: chosen labels and variables, and the tag."""
    entries = (entry.partition("=") for entry in container.env if "=" in entry)
    env = {name: value for name, _, value in entries}
    chosen = {
        **_named(options.get("labels", ""), container.labels),
        **_matching(options.get("labels-regex", ""), container.labels),
        **_named(options.get("env", ""), env),
        **_matching(options.get("env-regex", ""), env),
    }
    if tag := options.get("tag"):
        chosen["tag"] = _tag(tag, container_id=container_id, name=name, image=image)
    return chosen


def _named(names: str, values: Mapping[str, str]) -> dict[str, str]:
    return {name: values[name] for name in names.split(",") if name in values}


def _matching(pattern: str, values: Mapping[str, str]) -> dict[str, str]:
    if not pattern:
        return {}
    compiled = _pattern(pattern)
    return {name: value for name, value in values.items() if compiled.search(name)}


def _pattern(text: str) -> patterns.Pattern:
    try:
        return patterns.compile(text)
    except patterns.BadPattern as exc:
        raise LoggingFailure(f"error parsing regexp: {exc}") from exc


def _tag(template: str, *, container_id: str, name: str, image: str) -> str:
    """Docker's template words (docs "Customize log driver output"); others stay as they are."""
    words = {
        "{{.ID}}": container_id[:12],
        "{{.FullID}}": container_id,
        "{{.Name}}": name,
        "{{.ImageName}}": image,
        "{{.DaemonName}}": "docker",
    }
    _check_template(template)
    for word, value in words.items():
        template = template.replace(word, value)
    return template


def _check_template(template: str) -> None:
    """Raises LoggingFailure for what no dockerd makes a tag of."""
    _, opened, after = template.rpartition("{{")
    if opened and "}}" not in after:
        raise LoggingFailure("template: log-tag:1: unclosed action")
    for match in _FIELD.finditer(template):
        if match[1] not in _FIELDS:
            raise LoggingFailure(
                f'template: log-tag:1:{match.start(1) - 1}: executing "log-tag" at <.{match[1]}>: '
                f"can't evaluate field {match[1]} in type *logger.Info"
            )
