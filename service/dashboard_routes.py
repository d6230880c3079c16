"""The dashboard: its files, and the sessions of the browsers that show it.

The page is static and holds no data: it asks the API as any other client does, with a
cookie in the place of a key. Nothing in it runs that is not a file of this package.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from service.access import OWN_PAGE, anyone
from service.answers import json_answer
from service.context import Service, service_of
from service.errors import ApiError
from service.reader import Reads
from service.sessions import COOKIE, SECONDS
from service.settings import Limits

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


_LOGIN_LIMITS = Limits(body=4096, content=4096)


class Login(msgspec.Struct):
    """What a browser gives once."""

    key: str


@router.get("/", dependencies=[Depends(anyone)])
async def root() -> Response:
    """The way to the dashboard."""
    return RedirectResponse("/dashboard", 303)


@router.get("/dashboard", dependencies=[Depends(anyone)])
async def page(request: Request) -> Response:
    """The page."""
    return _file(request, "index.html")


@router.get("/dashboard/static/{name:path}", dependencies=[Depends(anyone)])
async def static(request: Request, name: str) -> Response:
    """A file of the page."""
    return _file(request, name)


@router.post("/dashboard/login", dependencies=[Depends(anyone)])
async def login(request: Request, service: Annotated[Service, Depends(service_of)]) -> Response:
    """Open a session with a key that may read. 401 for another one."""
    if OWN_PAGE not in request.headers:
        raise ApiError(403, "forbidden", "a session is opened by the dashboard's own page alone")
    async with service.room.body(request, _LOGIN_LIMITS) as content:
        try:
            given = msgspec.json.decode(content, type=Login)
        except msgspec.MsgspecError:
            raise ApiError(400, "invalid_body", 'the body must be {"key": KEY}') from None
    key = service.keys.find(given.key)
    if key is None or not key.may("read") or key.tenant != service.settings.tenant:
        raise ApiError(401, "unauthorized", "the key must be one of this server's that may read")
    answer = json_answer({"tenant": key.tenant, "rights": key.rights})
    answer.set_cookie(
        COOKIE,
        service.sessions.open(given.key),
        max_age=SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/dashboard/logout", dependencies=[Depends(anyone)])
async def logout(request: Request, service: Annotated[Service, Depends(service_of)]) -> Response:
    """End the session of this browser."""
    service.sessions.close(request.cookies.get(COOKIE, ""))
    answer = json_answer({})
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/dashboard/session")
async def session(read: Reads) -> Response:
    """Who this browser is signed in as."""
    return json_answer({"tenant": read.tenant, "rights": read.caller.key.rights})


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Content, type and tag of every file, read once: nothing else can be asked for."""
    found: dict[str, tuple[bytes, str, str]] = {}

    def walk(folder: Traversable, path: str) -> None:
        for entry in folder.iterdir():
            name = f"{path}{entry.name}"
            kind = _TYPES.get(name.rpartition(".")[2])
            if entry.is_dir():
                walk(entry, f"{name}/")
            elif kind is not None:
                content = entry.read_bytes()
                found[name] = content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    walk(resources.files("service").joinpath("dashboard"), "")
    return found


def _file(request: Request, name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise ApiError(404, "not_found", "the dashboard has no such file")
    content, kind, tag = found
    headers = {**HEADERS, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)
