"""From the command line, the environment and the file to one EngineConfig, or to a clear refusal.

The order is dockerd's: flags are read, then the file; what both set is an error; the rest is
merged over the defaults and checked as a whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compat.daemon import checks, file
from compat.daemon.flags import Flag, UsageError, parse
from compat.daemon.options import TABLE, Option, by_flag
from engine.config import DEFAULT_CONFIG_FILE, EngineConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRAM = "wharfd"

ZERO_IS_DEFAULT = ("max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts")


class ConfigurationError(Exception):
    """The daemon cannot start with what it was told; `str()` is for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """The flags as they were given, by name; `notices` are about the flags themselves."""

    flags: Mapping[str, Any]
    notices: tuple[str, ...] = ()

    def asks_for(self, flag: str) -> bool:
        return bool(self.flags.get(flag))


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What the daemon runs with, and what its user should know about it."""

    engine: EngineConfig
    warnings: tuple[str, ...] = ()


# The command line


def command_line(argv: Sequence[str]) -> CommandLine:
    """Read the flags; raises UsageError."""
    known = by_flag()
    parsed = parse(
        [Flag(name=o.flag, short=o.short, bare=o.kind.bare) for o in known.values()], argv
    )
    if parsed.arguments:
        raise UsageError(
            f'"{PROGRAM}" accepts no argument(s), and was given: {parsed.arguments[0]}'
        )
    flags: dict[str, Any] = {}
    for occurrence in parsed.occurrences:
        option = known[occurrence.name]
        try:
            flags[option.flag] = option.kind.add(occurrence.text, flags.get(option.flag))
        except ValueError as exc:
            raise UsageError(
                f'invalid argument "{occurrence.text}" for "{_spelled(option)}" flag: {exc}'
            ) from exc
    notices = tuple(
        f"Flag --{flag} has been deprecated, {known[flag].deprecated}"
        for flag in flags
        if known[flag].deprecated
    )
    return CommandLine(flags=flags, notices=notices)


def _spelled(option: Option) -> str:
    return f"-{option.short}, --{option.flag}" if option.short else f"--{option.flag}"


# Flags and file together


def configure(line: CommandLine, environ: Mapping[str, str]) -> Configuration:
    """Merge everything; raises ConfigurationError."""
    path = line.flags.get("config-file", DEFAULT_CONFIG_FILE)
    document = _read_file(path, is_required="config-file" in line.flags)
    if document is None:
        return _merged(line.flags, {}, path, environ)
    try:
        return _merged(line.flags, document, path, environ)
    except (file.FileError, _Invalid) as exc:
        prefix = (
            "merged configuration validation from file and command line flags failed: "
            if isinstance(exc, _Invalid)
            else ""
        )
        raise ConfigurationError(_in_file(path, prefix + str(exc))) from exc


class _Invalid(ConfigurationError):
    """A value that is understood and cannot be."""


def _in_file(path: str, sentence: str) -> str:
    return f"unable to configure the Docker daemon with file {path}: {sentence}"


def _read_file(path: str, *, is_required: bool) -> dict[str, object] | None:
    """What the file says; None if there is none and nobody named it."""
    if not path:
        return None
    try:
        return file.read(path)
    except FileNotFoundError:
        if not is_required:
            return None
        raise ConfigurationError(
            _in_file(path, f"open {path}: no such file or directory")
        ) from None
    except file.FileError as exc:
        raise ConfigurationError(_in_file(path, str(exc))) from exc


def _merged(
    flags: Mapping[str, Any],
    document: Mapping[str, object],
    path: str,
    environ: Mapping[str, str],
) -> Configuration:
    both = file.conflicts(document, flags)
    if both:
        raise file.FileError(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(both)
        )
    given = {**file.values(document), **flags}
    warnings = _warnings(given)
    for flag in ZERO_IS_DEFAULT:
        if given.get(flag) == 0:
            del given[flag]
    changes = {o.attribute: given[o.flag] for o in TABLE if o.attribute and o.flag in given}
    config = _with_tls(replace(EngineConfig(), **changes, config_file=path), given, environ)
    _verify(config)
    hosts = sorted({checks.parse_host(h, tls=config.tls) for h in config.hosts if h})
    default = checks.parse_host("", tls=config.tls)
    config = replace(
        config,
        hosts=tuple(hosts if "host" in given and hosts else [default]),
        labels=_labels(config.labels),
        data_root=_resolved(config.data_root, EngineConfig().data_root),
        exec_root=_resolved(config.exec_root, EngineConfig().exec_root),
        pidfile=config.pidfile and os.path.abspath(config.pidfile),
    )
    return Configuration(engine=config, warnings=warnings)


def _warnings(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Refuse what may not be ignored, and name what has no effect."""
    warnings: list[str] = []
    for option in TABLE:
        if option.flag not in given:
            continue
        value = given[option.flag]
        if sentence := option.refusal(value):
            raise _Invalid(sentence)
        if option.no_effect and not (option.harmless is not None and option.harmless(value)):
            warnings.append(f"{option.key or option.flag} has no effect: {option.no_effect}")
    return tuple(warnings)


def _resolved(path: str, default: str) -> str:
    """The directory without links, so that it has one name however it was reached."""
    return os.path.realpath(path or default)


def _labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Each label once; the same key with two values is an error."""
    found: dict[str, str] = {}
    for text in labels:
        key, _, value = text.partition("=")
        if found.setdefault(key, value) != value:
            raise _Invalid(f"conflict labels for {key}={value} and {key}={found[key]}")
    return tuple(f"{key}={value}" for key, value in found.items())


# TLS


def _with_tls(
    config: EngineConfig, given: Mapping[str, Any], environ: Mapping[str, str]
) -> EngineConfig:
    """Settle whether TLS is on, whether clients are verified, and with which files.

    Naming tlsverify at all turns TLS on, even as false; TLS verifies clients unless tlsverify is
    false (moby cmd/dockerd/options.go). Certificates are looked for where the Docker CLI has them.
    """
    wants_verify = bool(environ.get("DOCKER_TLS_VERIFY"))
    tls = config.tls or "tlsverify" in given or (wants_verify and "tls" not in given)
    if not tls:
        return replace(config, tls=False, tls_verify=False, tls_ca_cert="", tls_cert="", tls_key="")
    directory = environ.get("DOCKER_CERT_PATH") or environ.get("DOCKER_CONFIG")
    directory = directory or os.path.join(environ.get("HOME", "/root"), ".docker")
    return replace(
        config,
        tls=True,
        tls_verify=config.tls_verify if "tlsverify" in given else True,
        tls_ca_cert=config.tls_ca_cert or os.path.join(directory, "ca.pem"),
        tls_cert=config.tls_cert or os.path.join(directory, "cert.pem"),
        tls_key=config.tls_key or os.path.join(directory, "key.pem"),
    )


# The whole


def _verify(config: EngineConfig) -> None:
    """Refuse what cannot be, in dockerd's words."""
    for verify in (
        _verify_log,
        _verify_numbers,
        _verify_modes,
        _verify_gateways,
        _verify_exec_opts,
    ):
        verify(config)


LOG_LEVELS = frozenset({"panic", "fatal", "error", "warn", "info", "debug", "trace"})


def _verify_log(config: EngineConfig) -> None:
    if config.log_level.lower() not in LOG_LEVELS:
        raise _Invalid(f"invalid logging level: {config.log_level}")
    if config.log_format not in {"text", "json"}:
        raise _Invalid(f"invalid log format: {config.log_format}")


def _verify_numbers(config: EngineConfig) -> None:
    numbers = {
        "default MTU": config.mtu,
        "max concurrent downloads": config.max_concurrent_downloads,
        "max concurrent uploads": config.max_concurrent_uploads,
        "max download attempts": config.max_download_attempts,
    }
    for what, number in numbers.items():
        if number < 0:
            raise _Invalid(f"invalid {what}: {number}")


def _verify_modes(config: EngineConfig) -> None:
    hint = 'use "shareable" or "private"'
    if config.default_ipc_mode in {"none", "host"} or config.default_ipc_mode.startswith(
        "container:"
    ):
        mode = config.default_ipc_mode
        raise _Invalid(f'IPC mode "{mode}" is not supported as default value; {hint}')
    if config.default_ipc_mode not in {"shareable", "private"}:
        raise _Invalid(f"default IPC mode setting ({config.default_ipc_mode}) is invalid; {hint}")
    if config.default_cgroupns_mode not in {None, "host", "private"}:
        raise _Invalid(
            f"invalid default cgroup namespace ({config.default_cgroupns_mode}): "
            'use "host" or "private"'
        )


def _verify_gateways(config: EngineConfig) -> None:
    for version, count in (
        ("IPv4", sum(":" not in ip for ip in config.host_gateway_ips)),
        ("IPv6", sum(":" in ip for ip in config.host_gateway_ips)),
    ):
        if count > 1:
            raise _Invalid(f"only one {version} host gateway IP address can be specified")


def _verify_exec_opts(config: EngineConfig) -> None:
    for text in config.exec_opts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise _Invalid(f"invalid exec-opt ({text}): must be formatted 'opt=value'")
        if name.lower() == "isolation":
            raise _Invalid(
                f"invalid exec-opt ({text}): option 'isolation' is only supported on windows"
            )
        if name.lower() != "native.cgroupdriver":
            raise _Invalid(f"invalid exec-opt ({text}): unknown option: '{name.lower()}'")
