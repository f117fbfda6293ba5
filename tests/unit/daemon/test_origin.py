"""compat.daemon.origin: what a browser sends and a Docker client does not (A4)."""

from __future__ import annotations

import pytest

from compat.daemon.origin import refusal


@pytest.mark.parametrize(
    ("origin", "host", "local_ip"),
    [
        ("", "localhost:2375", "127.0.0.1"),
        ("", "127.0.0.1:2375", "127.0.0.1"),
        ("", "127.8.8.8", "127.0.0.1"),
        ("", "[::1]:2375", "::1"),
        ("", "api.moby.localhost", "127.0.0.1"),
        ("", "LOCALHOST.", "127.0.0.1"),
        ("", "", "127.0.0.1"),
        ("http://127.0.0.1:2375", "127.0.0.1:2375", "127.0.0.1"),
        ("", "build.example.com:2375", "192.0.2.1"),
    ],
)
def test_clients_pass(origin: str, host: str, local_ip: str) -> None:
    assert not refusal(origin=origin, host=host, local_ip=local_ip)


@pytest.mark.parametrize(
    ("origin", "host", "local_ip"),
    [
        ("https://evil.example", "localhost:2375", "127.0.0.1"),
        ("http://localhost:3000", "localhost:2375", "127.0.0.1"),
        ("null", "localhost:2375", "127.0.0.1"),
        ("http://[", "localhost:2375", "127.0.0.1"),
        ("", "evil.example", "127.0.0.1"),
        ("", "evil.example:2375", "::ffff:127.0.0.1"),
        ("", "localhost.evil.example", "127.0.0.1"),
        ("", "127.0.0.1.evil.example", "127.0.0.1"),
        ("", "[", "127.0.0.1"),
        ("http://evil.example", "evil.example", "127.0.0.1"),
        ("https://evil.example", "build.example.com:2375", "192.0.2.1"),
    ],
)
def test_web_pages_do_not(origin: str, host: str, local_ip: str) -> None:
    assert refusal(origin=origin, host=host, local_ip=local_ip).startswith("refusing")
