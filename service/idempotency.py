"""`Idempotency-Key`: a request that is sent again gets the same answer and counts once.

Two things see to it. An event without an id gets one that is made of the key, the request (its
path, type and body) and its place in it, so that a copy is the same event for all time and on
every server. And this process remembers answers for a day, so that the time which the API filled
in is the first one.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable

from fastapi import Request
from starlette.responses import Response

from service.errors import ApiError

_FORM = re.compile(r"[\x21-\x7e]{1,255}")
_MOST = 2_000
_LARGEST = 64 * 1024
_SECONDS = 24 * 3600.0

_Answer = tuple[int, bytes, str | None]


class Repeated:
    """One request with a key: what it asks (one body means other events on another route)."""

    def __init__(self, tenant: str, key: str, route: str, kind: str, body: bytes) -> None:
        self.place = (tenant, key)
        asked = hashlib.sha256(f"{route}\0{kind}\0".encode())
        asked.update(body)
        self.digest = asked.digest()
        seed = f"{tenant}\0{key}\0".encode() + self.digest
        self._seed = hashlib.sha256(seed)

    def make_id(self, index: int) -> str:
        """The id of the event at a place."""
        found = self._seed.copy()
        found.update(str(index).encode())
        return found.hexdigest()[:32]


class Answers:
    """The answers of this process, by tenant and key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[tuple[str, str], tuple[float, bytes, _Answer | None]] = (
            OrderedDict()
        )

    def begin(self, request: Repeated) -> Response | None:
        """The answer that was given already; None where this request is the first.

        Raises 409 while the first one is under way, 422 where it asked something else.
        """
        now = self._clock()
        found = self._found.get(request.place)
        if found is not None and now - found[0] < _SECONDS:
            _, digest, answer = found
            if digest != request.digest:
                detail = "an Idempotency-Key must come with the route and body it came with before"
                raise ApiError(422, "idempotency_key_reused", detail)
            if answer is None:
                detail = "a request with this Idempotency-Key is under way"
                raise ApiError(409, "in_progress", detail, headers={"retry-after": "1"})
            status, body, kind = answer
            return Response(body, status, {"idempotent-replayed": "true"}, media_type=kind)
        self._found.pop(request.place, None)
        self._found[request.place] = now, request.digest, None
        while len(self._found) > _MOST:
            self._found.popitem(last=False)
        return None

    def end(self, request: Repeated, response: Response | None) -> None:
        """Remember an answer that took the events; forget a request that failed."""
        found = self._found.get(request.place)
        if found is None or found[1] != request.digest:
            return
        body = b"" if response is None else bytes(response.body)
        if response is None or response.status_code >= 300 or len(body) > _LARGEST:
            del self._found[request.place]
            return
        answer = response.status_code, body, response.media_type
        self._found[request.place] = found[0], found[1], answer


def key_of(request: Request) -> str | None:
    """The `Idempotency-Key`. Raises 400 where it is none."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _FORM.fullmatch(key):
        detail = "Idempotency-Key must be 1 to 255 visible ASCII characters"
        raise ApiError(400, "invalid_header", detail)
    return key
