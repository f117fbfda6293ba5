"""The distribution project's own registry as a process, and a server of tokens for it.

`docker-registry` (its name on Debian) is what users run; the registry of `tests.support.registry`
is for what a well-behaved one never does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from tests.support.certificates import Authority

missing: str | None = None if shutil.which("docker-registry") else "docker-registry"
START_TIMEOUT_S = 20.0

USERNAME, PASSWORD = "user", "pass"
HTPASSWD = "user:$2b$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n"
"""bcrypt, the only form that it takes."""


class DockerRegistry:
    """Use as a context manager; `host` is its address with the port.

    `tls` is a certificate and its key, `clients` the authority that clients have to be from, `auth`
    that section of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        address: str = "127.0.0.1",
        *,
        tls: tuple[Path, Path] | None = None,
        clients: Path | None = None,
        auth: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = folder
        self._address = address
        self._port = _free_port(address)
        self._process: subprocess.Popen[bytes] | None = None
        http: dict[str, Any] = {"addr": self.host, "secret": "for one test"}
        if tls is not None:
            http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
            if clients is not None:
                http["tls"]["clientcas"] = [str(clients)]
        self._config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "store")}},
            "http": http,
        }
        if auth is not None:
            self._config["auth"] = auth

    @property
    def host(self) -> str:
        return f"{self._address}:{self._port}"

    def __enter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        config = self._folder / "config.yml"
        config.write_text(json.dumps(self._config))  # which YAML contains
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ("docker-registry", "serve", str(config)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection((self._address, self._port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError((self._folder / "log").read_text(errors="replace"))


def htpasswd(folder: Path) -> dict[str, Any]:
    """The `auth` of a registry that knows one user by name and password."""
    folder.mkdir(exist_ok=True)
    path = folder / "htpasswd"
    path.write_text(HTPASSWD)
    return {"htpasswd": {"realm": "a test", "path": str(path)}}


class TokenServer:
    """Gives whoever knows the password a token for all that is asked; use as a context manager.

    It speaks TLS with a certificate of the authority, which signs for the tokens as well.

    The tokens are those of distribution's token authentication (docs/content/spec/auth/jwt.md).
    """

    service, issuer = "a registry", "an issuer"

    def __init__(self, authority: Authority, address: str) -> None:
        self._address = address
        self._certificate, self._key = authority.sign("tokens", host=f"IP:{address}")
        self._roots = authority.certificate
        self.scopes: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="tokens", daemon=True)
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._port = 0

    @property
    def auth(self) -> dict[str, Any]:
        """The `auth` of a registry that trusts this server."""
        return {
            "token": {
                "realm": f"https://{self._address}:{self._port}/token",
                "service": self.service,
                "issuer": self.issuer,
                "rootcertbundle": str(self._roots),
            }
        }

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application()
        app.on_response_prepare.append(_part_afterwards)
        app.router.add_get("/token", self._by_password)
        app.router.add_post("/token", self._by_form)
        runner = web.AppRunner(app, shutdown_timeout=0.2, access_log=None)
        await runner.setup()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self._certificate, self._key)
        await web.TCPSite(runner, self._address, 0, ssl_context=tls).start()
        self._port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _by_password(self, request: web.Request) -> web.Response:
        known = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {known}":
            return web.json_response({"details": "incorrect username or password"}, status=401)
        token = self._token(request.query.getall("scope", []))
        return web.json_response({"token": token, "refresh_token": "again"})

    async def _by_form(self, request: web.Request) -> web.Response:
        """RFC 6749, which clients use that have a refresh token."""
        form = await request.post()
        if form.get("refresh_token") != "again":
            return web.json_response({"details": "incorrect username or password"}, status=401)
        token = self._token(str(form.get("scope", "")).split())
        return web.json_response({"access_token": token, "refresh_token": "again"})

    def _token(self, scopes: list[str]) -> str:
        self.scopes += scopes
        access = []
        for scope in (one for given in scopes for one in given.split()):
            kind, rest = scope.split(":", 1)
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        der = subprocess.run(
            ("openssl", "x509", "-in", str(self._certificate), "-outform", "DER"),
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": self.issuer,
            "aud": self.service,
            "sub": USERNAME,
            "iat": now,
            "nbf": now - 10,
            "exp": now + 60,
            "jti": str(time.monotonic_ns()),
            "access": access,
        }
        text = f"{_part(header)}.{_part(claims)}"
        signature = subprocess.run(
            ("openssl", "dgst", "-sha256", "-sign", str(self._key)),
            input=text.encode(), check=True, capture_output=True,
        ).stdout  # fmt: skip
        return f"{text}.{_unpadded(_joined(signature))}"


async def _part_afterwards(_: web.Request, response: web.StreamResponse) -> None:
    """A connection over TLS that waits for more would outlive the loop that it belongs to."""
    response.force_close()


def _part(document: Any) -> str:
    return _unpadded(json.dumps(document).encode())


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _joined(signature: bytes) -> bytes:
    """The two numbers of an ECDSA signature side by side, for P-256 (RFC 7518, §3.4)."""
    first = signature[3]  # SEQUENCE, length, INTEGER, length
    r, s = signature[4 : 4 + first], signature[4 + first + 2 :]
    return b"".join(int.from_bytes(part, "big").to_bytes(32, "big") for part in (r, s))


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
