"""URLs that users write. Sentences as dockerd 28.5.2 gave them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError, InvalidParameter, WharfError
from engine.registry.download import download, in_full
from engine.registry.failure import Stray
from engine.registry.transport import Transport
from tests.support.registry import Answer, Registry


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("host:81/a.tar", "http://host:81/a.tar"),
        ("https://host/a b?c=d#e", "https://host/a%20b?c=d#e"),
        ("http://u:p@host/%41", "http://u:p@host/A"),
    ],
)
def test_urls_in_full(source: str, url: str) -> None:
    assert in_full(source) == url


@pytest.mark.parametrize(
    ("source", "kind", "sentence"),
    [
        ("", EngineError, 'Get "http:": http: no Host in request URL'),
        ("http://", EngineError, 'Get "http:": http: no Host in request URL'),
        ("ftp://x/y", EngineError, 'Get "ftp://x/y": unsupported protocol scheme "ftp"'),
        (
            "file:///etc/passwd",
            EngineError,
            'Get "file:///etc/passwd": unsupported protocol scheme "file"',
        ),
        (
            "http://x:99999/",
            EngineError,
            'Get "http://x:99999/": dial tcp: address 99999: invalid port',
        ),
        (
            "http://a b/",
            InvalidParameter,
            'parse "http://a b/": invalid character " " in host name',
        ),
        ("x/%zz", InvalidParameter, 'parse "http://x/%zz": invalid URL escape "%zz"'),
        ("http://[::1/x", InvalidParameter, "parse \"http://[::1/x\": missing ']' in host"),
        ("http://x:y/", InvalidParameter, 'parse "http://x:y/": invalid port ":y" after host'),
    ],
)
def test_what_is_no_url(source: str, kind: type[WharfError], sentence: str) -> None:
    with pytest.raises(kind) as caught:
        in_full(source)
    assert str(caught.value) == sentence


@given(st.text(max_size=30) | st.text("htps:/@[]%.0123456789abc?# ", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = in_full(text)
    except WharfError:
        return
    assert found.startswith(("http://", "https://"))


def test_a_server_out_there_leads_to_no_other_scheme() -> None:
    async def fetch(url: str) -> None:
        transport = Transport(certs_dir="/nonexistent")
        try:
            async with download(transport, url):
                pass
        finally:
            await transport.close()

    with Registry() as server:
        server.fault("GET", "/a", Answer(302, {"Location": "file:///etc/passwd"}))
        with pytest.raises(Stray, match="unsupported protocol scheme"):
            asyncio.run(fetch(f"{server.url}/a"))
