"""Proving to a registry who asks: challenge → Basic, or a bearer token from the realm it names.

    GET /v2/                     → 401, WWW-Authenticate: Bearer realm="https://auth/token",…
    GET realm?service=…&scope=…  → {"token": …}           (with Basic where there is a password)
    POST realm, refresh_token    → {"access_token": …}    (with an identity token)
    GET /v2/…, Authorization: Bearer …

(distribution-spec, docs/spec/auth.) Only the endpoint's own answer to the ping is believed when it
names a realm; challenges of redirect targets are never answered (CVE-2020-15157).
"""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from engine.errors import EngineError, WharfError
from engine.registry import failure
from engine.registry.download import mistake

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.registry.challenge import Challenge
    from engine.registry.transport import Origin, Transport

CLIENT_ID = "docker"
SHORTEST_TOKEN_S = 60
"""A token counts as good for so long whatever its server says (distribution auth/session.go)."""
_LARGEST_TOKEN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAuth:
    """What a client knows about itself. Secrets do not show in `repr`.

    `identity_token` is a refresh token for the realm, `registry_token` a bearer token as it is.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server_address: str = ""

    @property
    def has_password(self) -> bool:
        return bool(self.username and self.password)

    @property
    def basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


ANONYMOUS = RegistryAuth()


class NoCredentials(failure.Final):
    def __init__(self) -> None:
        super().__init__("no basic auth credentials")


class _TokenResponse(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: float | None = None


@dataclass(slots=True)
class _Token:
    value: str
    good_until: float


def repository_scope(name: str, actions: Iterable[str]) -> str:
    return f"repository:{name}:{','.join(actions)}"


class Authorizer:
    """Makes the Authorization header for one origin; tokens are kept until they run out.

    With `is_login` a refresh token is asked for; it then stands in `identity_token`.
    """

    def __init__(
        self,
        transport: Transport,
        origin: Origin,
        auth: RegistryAuth,
        *,
        challenges: Sequence[Challenge],
        scopes: Sequence[str] = (),
        is_login: bool = False,
    ) -> None:
        self._transport = transport
        self._origin = origin
        self._auth = auth
        self._challenges = {c.scheme: c.parameters for c in reversed(challenges)}
        self._scopes = tuple(scopes)
        self._is_login = is_login
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._lock = asyncio.Lock()
        self.identity_token = auth.identity_token

    async def headers(self, method: str, url: str, *, scopes: Sequence[str] = ()) -> dict[str, str]:
        """The headers that `method url` needs; raises WharfError naming that request.

        `scopes` are what this request needs besides all the others.
        """
        try:
            value = await self._authorization(tuple(scopes))
        except WharfError as exc:
            raise failure.within(exc, method, url) from exc
        return {"Authorization": value} if value else {}

    async def _authorization(self, scopes: tuple[str, ...]) -> str:
        if "bearer" in self._challenges:
            return f"Bearer {await self._bearer(self._challenges['bearer'], scopes)}"
        if "basic" not in self._challenges or self._auth.registry_token:
            return ""
        if not self._auth.has_password:
            raise NoCredentials
        return self._auth.basic

    async def _bearer(self, parameters: Mapping[str, str], scopes: tuple[str, ...]) -> str:
        if self._auth.registry_token:
            return self._auth.registry_token
        async with self._lock:
            token = self._tokens.get(scopes)
            if token is None or time.monotonic() >= token.good_until:
                token = await self._fetch(parameters, (*self._scopes, *scopes))
                self._tokens[scopes] = token
            return token.value

    async def _fetch(self, parameters: Mapping[str, str], scopes: tuple[str, ...]) -> _Token:
        realm = parameters.get("realm", "")
        if not realm:
            raise failure.Final("no realm specified for token auth challenge")
        if (said := mistake(realm)) is not None:
            raise failure.Final(f'parse "{realm}": {said}')
        service = parameters.get("service", "")
        if self.identity_token:
            answer = await self._post(realm, service, scopes)
        else:
            answer = await self._get(realm, service, scopes)
        self.identity_token = answer.refresh_token or self.identity_token
        value = answer.access_token or answer.token
        if not value:
            raise EngineError("authorization server did not include a token in the response")
        lifetime_s = max(answer.expires_in or 0, SHORTEST_TOKEN_S)
        return _Token(value, time.monotonic() + lifetime_s)

    async def _get(self, realm: str, service: str, scopes: tuple[str, ...]) -> _TokenResponse:
        parts = urlsplit(realm)
        query = parse_qsl(parts.query)
        query += [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        if self._is_login:
            query += [("offline_token", "true"), ("client_id", CLIENT_ID)]
        headers: dict[str, str] = {}
        if self._auth.has_password:
            query.append(("account", self._auth.username))
            headers["Authorization"] = self._auth.basic
        url = parts._replace(query=urlencode(query), fragment="").geturl()
        return await self._ask("GET", url, headers=headers)

    async def _post(self, realm: str, service: str, scopes: tuple[str, ...]) -> _TokenResponse:
        form = {
            "scope": " ".join(scopes),
            "service": service,
            "client_id": CLIENT_ID,
            "grant_type": "refresh_token",
            "refresh_token": self.identity_token,
        }
        return await self._ask("POST", realm, form=form)

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> _TokenResponse:
        request = self._transport.request(self._origin, method, url, headers=headers, form=form)
        async with request as response:
            if not response.is_success:
                raise await response.failure()
            body = await response.read(_LARGEST_TOKEN_BYTES)
        try:
            return msgspec.json.decode(body, type=_TokenResponse)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise EngineError(f"unable to decode token response: {exc}") from exc
