"""The service's routes: answers, labels, health, metrics and the page."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.items import RawItem
from pipeline.serve_answers import PREDICT_BODY, Answers, Labels, Neighbors, errors
from pipeline.serve_batches import Batches, QueueFullError
from pipeline.serve_errors import Refusal, RequestError, internal_error, refuse
from pipeline.serve_limits import RETRY_AFTER, Limits
from pipeline.serve_metrics import CONTENT_TYPE, Metrics
from pipeline.serve_model import Said, Shelves
from pipeline.serve_requests import check_type, parse
from schemas.serve import MAX_TOP, ServeConfig

logger = logging.getLogger(__name__)

_PAGES = Path(__file__).parent / "pages"
_FILES = {
    "/": ("serve.html", "text/html; charset=utf-8"),
    "/serve.css": ("serve.css", "text/css; charset=utf-8"),
    "/serve.js": ("serve.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_IN_THREAD_BYTES = 1_000_000  # of a body: larger ones would hold up the event loop


class Service:
    """What the routes share; made in the running event loop."""

    def __init__(
        self,
        shelves: Shelves,
        batches: Callable[[Callable[[int], None]], Batches[RawItem, Said]],
        config: ServeConfig,
        about: dict[str, Any],
    ) -> None:
        """Put the parts together.

        Args:
            shelves: the labels.
            batches: makes the queue, given what each batch's size is to be reported to.
            config: limits.
            about: what every answer begins with: runs, decision and threshold.
        """
        self.shelves, self.about = shelves, about
        self.limits = Limits(config)
        self.metrics = Metrics(
            num_waiting=lambda: self.batches.num_waiting,
            bytes_under_way=lambda: self.limits.bytes_under_way,
        )
        self.batches = batches(self.metrics.count_batch)
        self.is_ready = False

    async def predict(self, request: Request, top: int) -> dict[str, Any]:
        """Answer a request for items. Raises: RequestError."""
        content_type = request.headers.get("content-type")
        check_type(content_type)
        assert content_type is not None
        try:
            async with self.limits.request():
                self.batches.check_room()  # before its body costs anything
                async with self.limits.body(request) as body:
                    items = await _parsed(bytes(body), content_type)
                    del body[:]
                    said = await self.batches.answer(items)
        except QueueFullError as error:
            raise RequestError(
                429, "too many items wait", fix="try again in a second", headers=RETRY_AFTER
            ) from error
        if len(items) == 1 and items[0].title is None and not said[0].image_ok:
            raise RequestError(
                422, said[0].error or "no picture", fix="send another picture, or a title too"
            )
        return {**self.about, "items": [self._answer(each, top) for each in said]}

    def _answer(self, said: Said, top: int) -> dict[str, Any]:
        ranked = [
            {**self.shelves.labels[label], "probability": probability}
            for label, probability in zip(said.labels[:top], said.probabilities[:top], strict=True)
        ]
        names = ("label_id", "name", "path", "probability")
        best = ranked[0] if said.accepted else dict.fromkeys(names)
        return {
            **{name: best[name] for name in names},
            "abstains": bool(ranked) and not said.accepted,
            "error": said.error,
            "top": ranked,
        }


async def _parsed(body: bytes, content_type: str) -> list[RawItem]:
    if len(body) < _IN_THREAD_BYTES:
        return parse(body, content_type)
    return await asyncio.to_thread(parse, body, content_type)


def make_app(service: Service) -> ASGIApp:
    """Return the whole application."""
    app = FastAPI(
        title="Shelfwise",
        description="Puts products on shelves: answers of trained runs for pictures and titles.",
        version="1",
        docs_url=None,  # these two pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the host that the client named
    )
    app.add_exception_handler(RequestError, refuse)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _crashed)
    _add_predict(app, service)
    _add_labels(app, service.shelves)
    _add_health(app, service)
    _add_page(app)
    return _Observed(app, service)


def _add_predict(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/predict",
        response_model=Answers,
        responses=errors(400, 408, 413, 415, 422, 429, 500, 503),
        openapi_extra=PREDICT_BODY,
    )
    async def predict(
        request: Request, top: Annotated[int, Query(ge=1, le=MAX_TOP)] = 5
    ) -> Response:
        """Answer for one item (a form, or JSON), or for some (JSON)."""
        return JSONResponse(await service.predict(request, top))


def _add_labels(app: FastAPI, shelves: Shelves) -> None:
    @app.get("/v1/labels", response_model=Labels, responses=errors(422))
    async def labels(
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        search: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        """List the labels, or those with a text in id, name or path."""
        found = shelves.found(search) if search else shelves.labels
        page = {"num_labels": len(found), "offset": offset}
        return JSONResponse({**page, "labels": found[offset : offset + limit]})

    @app.get(
        "/v1/labels/{label_id:path}/neighbors",
        response_model=Neighbors,
        responses=errors(404, 422),
    )
    async def neighbors(label_id: str) -> Response:
        """Give a label's nearest labels by the label graph."""
        if label_id not in shelves.row_of:
            raise RequestError(
                404, f"no label has the id {label_id[:100]!r}", fix="see /v1/labels for the ids"
            )
        if shelves.no_neighbors is not None:
            raise RequestError(
                404,
                f"no neighbors are known: {shelves.no_neighbors}",
                fix="start the service with --workspace, one that `neighbors` ran in",
            )
        own = shelves.labels[shelves.row_of[label_id]]
        return JSONResponse({**own, "neighbors": shelves.neighbors(label_id)})


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the process is alive."""
        return {"status": "alive"}

    @app.get("/readyz", responses=errors(503))
    async def readyz() -> dict[str, str]:
        """Say whether the service takes requests."""
        if service.limits.is_stopping or not service.is_ready:
            state = "stopping" if service.limits.is_stopping else "starting"
            raise RequestError(503, f"the service is {state}", fix="send requests elsewhere")
        return {"status": "ready"}

    for path, answer in (("/healthz", healthz), ("/readyz", readyz)):  # as some probes ask
        app.add_api_route(path, answer, include_in_schema=False, methods=["HEAD"])

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Give counters in Prometheus' text form."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    for route, (name, media_type) in _FILES.items():
        content = (_PAGES / name).read_bytes()
        answer = _page(content, media_type)
        app.add_api_route(route, answer, include_in_schema=False, methods=["GET", "HEAD"])


def _page(content: bytes, media_type: str) -> Callable[[], Any]:
    async def answer() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return answer


async def _invalid(request: Request, error: Exception) -> Refusal:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(each)[:100] for each in first["loc"])
    problem = RequestError(422, f"{place}: {first['msg']}", fix="see /openapi.json")
    return await refuse(request, problem)


async def _http_error(request: Request, error: Exception) -> Refusal:
    assert isinstance(error, HTTPException)
    fix = "see /openapi.json for what there is"
    problem = RequestError(error.status_code, error.detail, fix=fix, headers=error.headers)
    return await refuse(request, problem)


async def _crashed(request: Request, error: Exception) -> Refusal:
    del error  # _Observed logs it
    return await refuse(request, internal_error())


class _Observed:
    """Counts requests and logs what nobody foresaw."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._service.limits.is_stopping:
                    message["headers"] = [
                        *(pair for pair in message["headers"] if pair[0] != b"connection"),
                        (b"connection", b"close"),
                    ]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not self._service.limits.is_stopping:
                raise
            # Cut off at the end of the grace, while it read what nobody needs: no cause for alarm.
        except Exception:
            logger.exception("a request failed; its client got status %d", status)
        finally:
            route = getattr(scope.get("route"), "path_format", "other")
            self._service.metrics.count_request(route, status, time.perf_counter() - started)


def threshold_or_none(threshold: float) -> float | None:
    """Return what JSON can hold of a threshold: -inf takes every answer."""
    return None if math.isinf(threshold) else threshold
