"""`wharfd`: from the command line to a daemon that serves, and back to nothing.

The order of the start is its content: understand what was asked (cheap, without the libraries);
take what only one daemon can have (pidfile, sockets); bring the engine up from what the
kernel and the disk say; serve. Clients that connect meanwhile wait in the sockets' queues. The end
is the same backwards.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from compat.daemon.configuration import (
    PROGRAM,
    CommandLine,
    Configuration,
    ConfigurationError,
    command_line,
    configure,
)
from compat.daemon.flags import UsageError
from compat.daemon.tls import TlsError, server_context
from engine.version import DOCKER_VERSION, VERSION

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

    from compat.daemon.listeners import Listener
    from engine.config import EngineConfig

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, or 1 with a sentence on standard error."""
    try:
        line = command_line(sys.argv[1:] if argv is None else argv)
    except UsageError as exc:
        return _fail(f"{exc}\nSee '{PROGRAM} --help'.")
    if line.asks_for("help"):
        from compat.daemon.usage import usage

        sys.stdout.write(usage(shutil.get_terminal_size().columns))
        return 0
    if line.asks_for("version"):
        print(f"Wharf version {VERSION}, as Docker {DOCKER_VERSION}")
        return 0
    try:
        return _with_configuration(line)
    except (ConfigurationError, TlsError) as exc:
        return _fail(str(exc))


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


def _with_configuration(line: CommandLine) -> int:
    for notice in line.notices:
        print(notice, file=sys.stderr)
    configuration = configure(line, os.environ)
    server_context(configuration.engine)
    if line.asks_for("check"):
        return _check(configuration.engine)
    if line.asks_for("validate"):
        _validate(configuration.engine)
        for warning in configuration.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print("configuration OK", file=sys.stderr)
        return 0
    return run(configuration)


def _validate(config: EngineConfig) -> None:
    """What a start would refuse later; raises ConfigurationError."""
    from compat.daemon.listeners import ListenError, check_hosts
    from engine.container import logconfig
    from engine.errors import WharfError

    try:
        logconfig.check_default(config.log_driver, config.log_opts)
        check_hosts(config)
    except (ListenError, WharfError) as exc:
        raise ConfigurationError(str(exc)) from exc
    if doubt := logconfig.doubts(config.log_driver, config.log_opts):
        print(f"warning: {doubt}", file=sys.stderr)


def _check(config: EngineConfig) -> int:
    """Print what this host offers; 1 if something is missing that nothing goes without."""
    from engine import doctor

    findings = doctor.examine(config)
    for finding in findings:
        print(finding)
    return 1 if any(finding.is_fatal for finding in findings) else 0


# The process


def run(configuration: Configuration) -> int:
    """Be the daemon until told to stop."""
    config = configuration.engine
    _open_log(config)
    log.info("Starting up")
    for warning in configuration.warnings:
        log.warning("%s", warning)
    if os.geteuid() != 0:
        return _fail(f"{PROGRAM} needs to be started with root privileges")
    from compat.daemon.listeners import ListenError
    from compat.daemon.pidfile import StillRunning

    try:
        with _alone(config) as listeners:
            return _run_loop(_with_many_files(config), listeners)
    except (ListenError, StillRunning) as exc:
        return _fail(str(exc))
    except OSError as exc:
        from engine.linux import oserror

        how = "open " if exc.filename else ""
        return _fail(f"failed to start daemon: {how}{oserror.sentence(exc)}")


def _open_log(config: EngineConfig) -> None:
    from compat.daemon import journal

    journal.configure(level=config.log_level, debug=config.debug, log_format=config.log_format)


@contextlib.contextmanager
def _alone(config: EngineConfig) -> Iterator[list[Listener]]:
    """Have pidfile and sockets, which no other daemon has at the same time.

    The engine itself sees to it that nobody else works in its folders.
    """
    from compat.daemon import listeners, pidfile, systemd

    passed_fds = systemd.listen_fds(os.environ)
    _prepare_process(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pidfile.held(config.pidfile))
        found = listeners.open_all(config, passed_fds)
        for listener in found:
            stack.callback(listener.close)
        yield found


def _prepare_process(config: EngineConfig) -> None:
    """Known modes for new files, and the proxies of the configuration for everything that asks."""
    os.umask(0o022)
    for name, value in (
        ("http_proxy", config.http_proxy),
        ("https_proxy", config.https_proxy),
        ("no_proxy", config.no_proxy),
    ):
        if value:
            os.environ[name] = os.environ[name.upper()] = value


def _with_many_files(config: EngineConfig) -> EngineConfig:
    """Take all the descriptors this process may have, and give containers what it came with.

    A thousand attached clients and monitors are a few descriptors each; 1024 would not do. But a
    container inherits the limit, and some programs close every number up to it.
    """
    import resource

    from engine.config import Ulimit

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if any(limit.name == "nofile" for limit in config.default_ulimits):
        return config
    inherited = Ulimit(name="nofile", soft=soft, hard=hard)
    return replace(config, default_ulimits=(*config.default_ulimits, inherited))


def _run_loop(config: EngineConfig, listeners: Sequence[Listener]) -> int:
    import asyncio

    from compat.daemon.service import serve
    from engine.errors import WharfError

    with asyncio.Runner(loop_factory=_event_loop) as runner:
        try:
            runner.run(serve(config, listeners))
        except WharfError as exc:
            return _fail(f"failed to start daemon: {exc}")
    return 0


def _event_loop() -> asyncio.AbstractEventLoop:
    """The one door of the event loop."""
    import asyncio

    return asyncio.new_event_loop()


if __name__ == "__main__":
    sys.exit(main())
