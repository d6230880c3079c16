"""Who asks, and whether they may: the one dependency that every route has.

    @router.get("/v1/usage")
    async def usage(caller: Annotated[Caller, Depends(allowed("read"))]) -> ...:

A route without a key says so with `Depends(anyone)`. A test walks all routes and fails for
one that has neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from service.context import Service, service_of
from service.errors import ApiError
from service.keys import Key, Right
from service.sessions import COOKIE

_HEADER = APIKeyHeader(name="x-api-key", auto_error=False, scheme_name="ApiKey")
_BEARER = HTTPBearer(auto_error=False, scheme_name="Bearer")
_MOST = 256
"""Characters of a key that is looked at."""
OWN_PAGE = "x-beammeter-page"
"""The header that the dashboard sends with what changes something."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request: a key, its tenant, and the request's id."""

    key: Key
    request_id: str

    @property
    def tenant(self) -> str:
        """Whose data it is."""
        return self.key.tenant

    def check_tenant(self, served: str) -> None:
        """Raises 403 where this server works for another tenant alone."""
        if self.tenant != served:
            raise ApiError(403, "wrong_tenant", "this server does not serve the tenant of this key")


Check = Callable[..., Awaitable[Caller]]


def allowed(right: Right) -> Check:
    """A dependency: a key with this right, within its rate. Gives the `Caller`."""
    if right not in _CHECKS:
        _CHECKS[right] = _check(right)
    return _CHECKS[right]


def _check(right: Right) -> Check:
    async def check(
        request: Request,
        service: Annotated[Service, Depends(service_of)],
        _header: Annotated[str | None, Security(_HEADER)] = None,
        _bearer: Annotated[object | None, Security(_BEARER)] = None,
    ) -> Caller:
        return caller_of(request, service, right)

    check.right = right  # type: ignore[attr-defined]
    return check


_CHECKS: dict[Right, Check] = {}


async def anyone() -> None:
    """A dependency: the route is open to all, on purpose."""


anyone.right = None  # type: ignore[attr-defined]


def caller_of(request: Request, service: Service, right: Right) -> Caller:
    """The caller of a request. Raises 401, 403 or 429."""
    key = known_key(request, service)
    if not key.may(right):
        raise ApiError(403, "forbidden", f"the key must have the right {right!r}")
    limits = service.settings.limits
    rate = key.requests_rate or limits.requests_rate
    check_rate(service, key, "requests", rate)
    service.rates.draw(key.id, "requests", rate)
    return Caller(key, str(request.scope.get("request_id", "")))


def known_key(request: Request, service: Service) -> Key:
    """The key of a request, whatever it may do. Raises 401."""
    text = _given(request, service)
    key = None if text is None or len(text) > _MOST else service.keys.find(text)
    if key is None:
        detail = "a key must be given: x-api-key, or Authorization: Bearer"
        if text is not None:
            detail = "the key must be one that was made and not revoked"
        raise ApiError(401, "unauthorized", detail, headers={"www-authenticate": "Bearer"})
    return key


def check_rate(service: Service, key: Key, kind: str, rate: float | None) -> None:
    """Raises 429 with Retry-After where a key has used up its rate of `kind`."""
    if wait := service.rates.wait(key.id, kind, rate):
        detail = f"a key may send {rate:g} {kind} a second; try again in {wait} s"
        raise ApiError(429, "too_many_requests", detail, headers={"retry-after": str(wait)})


def _given(request: Request, service: Service) -> str | None:
    """The key of a request: in a header, or behind the cookie of a browser's session.

    A cookie counts only for what reads, or with the header that pages of other sites
    cannot send.
    """
    headers = request.headers
    if (key := headers.get("x-api-key")) is not None:
        return key
    if (given := headers.get("authorization")) is not None:
        scheme, _, token = given.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None
    word = request.cookies.get(COOKIE)
    if word is None or (request.method not in ("GET", "HEAD") and OWN_PAGE not in headers):
        return None
    return service.sessions.key(word[:_MOST])
