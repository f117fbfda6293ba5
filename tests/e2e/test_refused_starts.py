"""A daemon that cannot start says why in one sentence, and leaves nothing behind."""

from __future__ import annotations

import subprocess

import pytest

from tests.support import leftovers
from tests.support.engine import Wharf

pytestmark = pytest.mark.beyond

START = "failed to start daemon: "
NETWORK = START + 'Error initializing network controller: error creating default "bridge" network: '


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--bip", "10.231.1.0/24"),
            NETWORK + "failed to allocate gateway (10.231.1.0): Address already in use",
        ),
        (("-b", "nope"), NETWORK + "a bridge made by somebody else (--bridge) is not supported"),
        (("--data-root", "/proc/x"), START + "mkdir /proc/x: no such file or directory"),
        (("--data-root", "/etc/passwd"), START + "mkdir /etc/passwd: not a directory"),
        (("--pidfile", "/proc/x"), START + "open /proc/x: no such file or directory"),
        (
            ("--seccomp-profile", "/nope"),
            START + "opening seccomp profile (/nope) failed: open /nope: no such file or directory",
        ),
        (
            ("--log-opt", "foo=x"),
            START + "failed to set log opts: unknown log opt 'foo' for json-file log driver",
        ),
        (
            ("--log-opt", "foo=x", "--validate"),
            "failed to set log opts: unknown log opt 'foo' for json-file log driver",
        ),
        (
            ("-H", "tcp://0.0.0.0:2375", "--validate"),
            "without --tlsverify everybody who reaches this address would be root on this host "
            "(--allow-insecure-tcp allows it all the same)",
        ),
        (
            ("-H", "tcp://nosuch.invalid:2375", "--validate"),
            "failed to lookup nosuch.invalid address in host specification",
        ),
        (
            ("--log-driver", "local"),
            "log-driver local: this engine writes logs by json-file only, or none",
        ),
        (
            ("--log-driver", "syslog", "--validate"),
            "log-driver syslog: this engine writes logs by json-file only, or none",
        ),
    ],
)
def test_why_it_does_not_start(flags: tuple[str, ...], sentence: str) -> None:
    daemon = Wharf(*flags)
    try:
        (daemon.root / "daemon.json").write_text("{}")
        done = subprocess.run(
            daemon.command(), capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if not line.startswith("time=")]
        assert len(lines) == 1
        assert lines[0].endswith(sentence)
        assert leftovers.of(daemon.root, daemon.instance) == []
    finally:
        daemon.close()
