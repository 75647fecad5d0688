"""What requests may take of memory and time, and what happens at the limit.

Bytes are reserved before a body is read, so a thousand clients with large bodies cost no more
memory than the limit allows; the rest are told to come back.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from pipeline.serve_errors import BODY_IS_READ, RequestError
from schemas.serve import ServeConfig

_LEAST_BYTES = 4096  # that any request costs
RETRY_AFTER = {"Retry-After": "1"}


class Limits:
    """Counts what is under way; lives in the event loop's thread."""

    def __init__(self, config: ServeConfig) -> None:
        """Name the limits."""
        self._config = config
        self._open: set[asyncio.Timeout] = set()
        self.bytes_under_way = 0
        self.is_stopping = False

    @property
    def num_open(self) -> int:
        """How many requests are under way."""
        return len(self._open)

    @contextlib.asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Hold a request to its deadline, and to the service's end.

        Raises: RequestError with 503.
        """
        if self.is_stopping:
            raise _stopping()
        try:
            async with asyncio.timeout(self._config.deadline_seconds) as limit:
                self._open.add(limit)
                try:
                    yield
                finally:
                    self._open.discard(limit)
        except TimeoutError as error:
            raise (_stopping() if self.is_stopping else self._too_late()) from error

    def refuse_all(self) -> None:
        """End the requests that are under way."""
        now = asyncio.get_running_loop().time()
        for limit in self._open:
            if not limit.expired():
                limit.reschedule(now)

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytearray]:
        """Read a request's body; its bytes count until the block ends.

        Raises: RequestError with 408, 413 or 429.
        """
        share = _Share(self)
        try:
            yield await self._read(request, share)
        finally:
            self.bytes_under_way -= share.num_bytes

    async def _read(self, request: Request, share: "_Share") -> bytearray:
        declared = request.headers.get("content-length")  # h11 lets nothing but digits through
        share.grow(_LEAST_BYTES)
        if declared is not None:
            self._check(int(declared))
            share.grow(int(declared))
        found = bytearray()
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while True:
                    message = await request.receive()
                    if message["type"] != "http.request":
                        raise RequestError(400, "the client went away", fix="send it again")
                    found += message.get("body", b"")
                    self._check(len(found))
                    share.grow(len(found))  # if it comes in chunks, of nobody knows how many bytes
                    if not message.get("more_body"):
                        request.scope[BODY_IS_READ] = True
                        return found
        except TimeoutError as error:
            raise RequestError(
                408,
                f"the body did not arrive within {self._config.body_seconds:g} s",
                fix="send it faster, or make the picture smaller",
            ) from error

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._config.max_body_bytes:
            raise RequestError(
                413,
                f"the body has more than {self._config.max_body_bytes:,} bytes",
                fix="send a smaller picture or fewer items, or start the service with --max-body",
            )

    def reserve(self, num_bytes: int) -> None:
        """Take bytes of the budget. Raises: RequestError with 429, and takes none."""
        if self.bytes_under_way + num_bytes > self._config.max_bytes_under_way:
            raise RequestError(
                429,
                "too many bytes are under way",
                fix="try again in a second",
                headers=RETRY_AFTER,
            )
        self.bytes_under_way += num_bytes

    def _too_late(self) -> RequestError:
        return RequestError(
            503,
            f"no answer within {self._config.deadline_seconds:g} s",
            fix="try again when there is less load",
            headers=RETRY_AFTER,
        )


def _stopping() -> RequestError:
    return RequestError(
        503,
        "the service is stopping",
        fix="try another one, or again when it is back",
        headers=RETRY_AFTER | {"Connection": "close"},
    )


class _Share:
    """What one request has of the budget."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.num_bytes = 0

    def grow(self, num_bytes: int) -> None:
        """Make it at least so large."""
        if num_bytes > self.num_bytes:
            self._limits.reserve(num_bytes - self.num_bytes)
            self.num_bytes = num_bytes
