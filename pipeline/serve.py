"""Answer over HTTP for new items, with finished runs, until told to stop.

Takes what `predict` takes; writes nothing. Cost: the encoder's for each item, batched over all
clients; memory for the encoder, a few batches, and the bodies under way, which have a limit.
"""

import asyncio
import contextlib
import functools
import logging
import resource
import signal
import socket
import types
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cache.storage import Storage
from pipeline.embed_shard import EncoderLike
from pipeline.logs import event
from pipeline.run_classifier import RunClassifier
from pipeline.serve_app import Service, make_app, threshold_or_none
from pipeline.serve_batches import Batches
from pipeline.serve_model import Model, Shelves
from schemas.errors import ServeError
from schemas.serve import ServeConfig

logger = logging.getLogger(__name__)

_HEADER_SECONDS = 15.0
_LEAST_STOP_SECONDS = 0.5  # in which load balancers and kept connections hear of it
_LAST_SECONDS = 2.0  # for answers on their way out
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MAX_FILES = 65536
_BACKLOG = 2048  # connections that wait to be taken; before the service is ready too
_READ_BYTES = 65536


def listen(config: ServeConfig) -> socket.socket:
    """Take the address, before the minutes that loading may cost.

    Raises: ServeError if it cannot be had.
    """
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)  # two may be bound to a port, and only one may listen
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ServeError(
            f"cannot listen at {config.host} port {config.port}: {error.strerror or error}",
            where="--host, --port",
            fix="name an address of this machine and a free port; --port 0 takes one",
        ) from error
    where = _address(listener)
    logger.info("address: %s", where, extra=event("serve_address", address=where))
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    classifier: RunClassifier,
    encoder: EncoderLike,
    workspace: Storage,
    listener: socket.socket,
    config: ServeConfig,
    *,
    decision: str,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then finish what is under way.

    Args:
        classifier: the runs, with as many answers an item as a request may ask for.
        encoder: the one they were trained with.
        workspace: has the label graph, if anybody has.
        listener: where to listen.
        config: batches and limits.
        decision: the classifier's, by name.
    """
    about = {
        "runs": list(classifier.runs),
        "decision": decision,
        "threshold": threshold_or_none(classifier.threshold),
    }
    shelves = Shelves(classifier, workspace)
    if shelves.no_neighbors is not None:
        logger.warning("no neighbors to show: %s", shelves.no_neighbors)
    model = Model(classifier, encoder)
    num_lanes = config.num_lanes or (2 if classifier.device.type == "cuda" else 1)
    lanes = model.lanes(num_lanes, num_workers=config.num_workers)
    _allow_connections()

    async def run() -> bool:
        make_batches = functools.partial(
            Batches,
            lanes,
            batch_size=config.batch_size,
            wait_seconds=config.batch_wait_seconds,
            max_waiting=config.max_waiting,
        )
        service = Service(shelves, lambda report: make_batches(report=report), config, about)
        await _until_stopped(service, listener, config)
        return await asyncio.to_thread(service.batches.close, _LAST_SECONDS)

    has_ended = asyncio.run(run())
    for number in _SIGNALS:  # Python's own end would bring back what kills
        signal.signal(number, signal.SIG_IGN)
    if has_ended:
        model.close()
    else:
        logger.warning("a batch is still under way and is given up")
    logger.info("stopped", extra=event("serve_stopped"))


async def _until_stopped(service: Service, listener: socket.socket, config: ServeConfig) -> None:
    """Serve until a signal comes and what was under way has ended."""
    settings = uvicorn.Config(
        make_app(service),
        http=_Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(_LAST_SECONDS),
    )
    server, stopped = _Server(settings), asyncio.Event()
    _at_signals(asyncio.get_running_loop(), stopped)
    address = _address(listener)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    if server.started:
        service.is_ready = True
        logger.info("ready: %s", address, extra=event("serve_ready", address=address))
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await _finish(service, config)
    server.should_exit = True
    await running
    stopping.cancel()


def _at_signals(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    """Set an event at SIGTERM and Ctrl-C; further ones, also after the loop's end, do nothing.

    The loop's own handlers would end with it, and the next signal kill a process on its way out.
    """

    def handle(number: int, frame: types.FrameType | None) -> None:
        del number, frame
        if not loop.is_closed():
            loop.call_soon_threadsafe(stopped.set)

    for number in _SIGNALS:
        signal.signal(number, handle)


async def _finish(service: Service, config: ServeConfig) -> None:
    """Let requests under way end; refuse new ones, and at the end of the grace all."""
    service.limits.is_stopping = True
    logger.info(
        "stopping: %d requests are under way",
        service.limits.num_open,
        extra=event("serve_stopping", requests=service.limits.num_open),
    )
    loop = asyncio.get_running_loop()
    started = loop.time()
    while True:
        passed = loop.time() - started
        is_idle = not service.limits.num_open and passed >= _LEAST_STOP_SECONDS
        if is_idle or passed >= config.grace_seconds:
            break
        await asyncio.sleep(0.05)
    service.limits.refuse_all()


def _allow_connections() -> None:
    """Let this process open as many files as it may; many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn's own handling ends the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Impatient(H11Protocol):
    """Ends connections on which a request's headers do not arrive; uvicorn waits forever."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # What asyncio reads at once; its own 256 kB would add up with a thousand large bodies,
        # since uvicorn pauses a connection only after it has as much as that.
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def _watch(self) -> None:
        """Let a timer run while headers are awaited that have begun, or are the first."""
        is_waiting = self.cycle is None or self.cycle.response_complete
        if is_waiting and self._patience is None:
            self._patience = self.loop.call_later(_HEADER_SECONDS, self.transport.close)
        elif not is_waiting and self._patience is not None:
            self._patience.cancel()
            self._patience = None
