"""What a client is told when its request is refused: JSON that says what is wrong and what to do.

Never a stack trace, and never a path of this machine.
"""

import asyncio
import contextlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

_DRAIN_SECONDS = 5.0
BODY_IS_READ = "shelfwise_body_is_read"
"""Key of a request's scope."""


class RequestError(Exception):
    """A request that is refused."""

    def __init__(
        self, status: int, what: str, *, fix: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Make the error.

        Args:
            status: of HTTP.
            what: what is wrong.
            fix: what the client can do.
            headers: sent with it, such as Retry-After.
        """
        super().__init__(what)
        self.status, self.what, self.fix, self.headers = status, what, fix, headers


class Refusal(JSONResponse):
    """An error's answer; reads what is left of the request's body before the connection ends.

    Who closes a connection with unread bytes resets it, and a client that is still sending would
    see "connection reset" in place of the reason.
    """

    def __init__(self, error: RequestError, *, can_drain: bool = True) -> None:
        """Make the answer.

        Args:
            error: what it says.
            can_drain: whether to read the rest of the body.
        """
        # A name may quote half a surrogate pair, which is no UTF-8.
        what = error.what.encode("utf-8", "backslashreplace").decode()
        content = {"error": {"what": what, "fix": error.fix}}
        super().__init__(content, error.status, error.headers)
        self._can_drain = can_drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if scope.get(BODY_IS_READ):
            await super().__call__(scope, receive, send)
            return
        self.headers["connection"] = "close"
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})
        # Who expects 100-continue has sent no body yet, and will not now.
        if self._can_drain and not any(name == b"expect" for name, _ in scope["headers"]):
            await _drain(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return


async def refuse(request: Request, error: Exception) -> Refusal:
    """Answer a RequestError; FastAPI calls this."""
    assert isinstance(error, RequestError)
    return Refusal(error, can_drain=error.status != 408)


def internal_error() -> RequestError:
    """Return what a client is told of a mistake of ours."""
    return RequestError(
        500,
        "this is a mistake of the service",
        fix="look into the service's log, and report it",
    )
