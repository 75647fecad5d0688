"""Shards by Ray: one pool of workers on all nodes of a cluster, each with an encoder.

Ray starts the workers and tells which of them are lost; which shard is done, only its commit says.
So whatever dies costs at most the chunks under way, and a run may end and begin anew, with or
without Ray. Why not Ray Data: docs/clusters.md. Cost beside the embedding: a call a second and
worker to see how far it is.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.layout import open_arrays
from cache.storage import Storage
from cache.verify import shard_state, shard_states
from pipeline.embed_labels import labels_problem
from pipeline.logs import event
from pipeline.progress import Progress
from pipeline.ray_nodes import Node, RayReport, divided
from pipeline.ray_worker import LABELS, Worker, WorkerOptions
from pipeline.shard_embedder import is_open
from pipeline.stopping import listening
from schemas.errors import (
    CacheBrokenError,
    CacheCorruptError,
    ConfigError,
    PipelineError,
    ShardsFailedError,
    SourceChangedError,
    TooManyBadRowsError,
)
from schemas.plan import Plan

logger = logging.getLogger(__name__)

_MOST_TRIES = 3
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 0.2
_NODES_SECONDS = 5.0
_STOP_SECONDS = 20.0
_REACH_SECONDS = 10.0
_WAITING_SECONDS = 30.0
_OF_ONE_SHARD = (TooManyBadRowsError, CacheCorruptError, CacheBrokenError, SourceChangedError)
_ROOT = Path(__file__).parents[1]


@dataclass(kw_only=True, eq=False)
class _Seat:
    """A worker and what it is at."""

    node: Node
    actor: Any
    call: Any
    """The call under way; None if it waits for a task."""
    task: int | None = None
    """None while it loads."""
    num_items: int = 0
    """Of the task, as last seen."""

    @property
    def is_loading(self) -> bool:
        """Whether it has no encoder yet; it may wait for its node to be free."""
        return self.call is not None and self.task is None


def embed_on_ray(
    workspace: Storage,
    plan: Plan,
    shards: Sequence[int],
    *,
    with_labels: bool,
    address: str | None,
    gpus_per_worker: float | None,
    num_workers: int | None,
    device: str,
    compute_dtype: str,
    **embedder: Any,
) -> RayReport:
    """Embed shards on all nodes of a Ray cluster, and the labels as `embed` does.

    A worker that dies leaves its shard to another; a shard whose worker dies three times is given
    up. Nodes that join get workers. Where all fail for the same reason, such as a full disk, the
    run ends at once.

    Args:
        workspace: where the plan is; every node must reach it by the same path or URL.
        plan: the workspace's plan.
        shards: positions in the plan.
        with_labels: embed the labels too.
        address: of the cluster, as `ray.init` takes it; None starts one on this machine.
        gpus_per_worker: None for one if the cluster has any, else none.
        num_workers: decoding processes of a worker; None for as many as it has cores.
        device: `auto`, or `cpu`.
        compute_dtype: as of `load_encoder`.
        embedder: options of `ShardEmbedder`.
    Raises: ConfigError if Ray, the cluster or its GPUs are not there; ShardsFailedError or the one
        shard's error after all others are done; what concerns all shards at once.
    """
    ray = _import_ray()
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"--device {device} would be every worker's device",
            where="--device",
            fix="leave it out: Ray gives each worker GPUs of its own; or use cpu",
        )
    if gpus_per_worker is not None and not _is_share(gpus_per_worker):
        raise ConfigError(
            f"a worker cannot have {gpus_per_worker:g} GPUs",
            where="--gpus-per-worker",
            fix="use a whole number, 0 for none, or a share of one from 0.01 on",
        )
    for shard in shards:
        plan.shard_range(shard)
    workspace.check_writable()
    open_arrays(workspace, plan)
    tasks = _open_tasks(workspace, plan, shards, with_labels=with_labels, embedder=embedder)
    options = WorkerOptions(
        num_workers=num_workers,
        device=device,
        compute_dtype=compute_dtype,
        embedder=embedder,
    )
    started = time.monotonic()
    if not tasks:
        logger.info("all shards are done already", extra=event("nothing_to_do"))
        return RayReport(nodes=(), seconds=0.0)
    with _cluster(ray, address):
        gpus = 0.0 if device == "cpu" else gpus_per_worker
        run = _Run(ray, workspace, plan, tasks, options, gpus)
        run.work()
    return RayReport(nodes=tuple(run.nodes.values()), seconds=time.monotonic() - started)


def _is_share(gpus: float) -> bool:
    """Say whether Ray can give a worker so many GPUs."""
    return 0.01 <= gpus <= 1 or (gpus >= 0 and gpus.is_integer())


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what runs here
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ConfigError(
            f"Ray is not installed here: {error}",
            where="--engine ray",
            fix="pip install -r requirements-ray.txt -c constraints.txt",
        ) from error
    return ray


def _open_tasks(
    workspace: Storage,
    plan: Plan,
    shards: Sequence[int],
    *,
    with_labels: bool,
    embedder: dict[str, Any],
) -> list[int]:
    """Return what is not done; one listing tells, however many shards there are."""
    tasks = []
    if (with_labels or 0 in shards) and labels_problem(workspace, plan):
        tasks.append(LABELS)
    states = shard_states(workspace, plan, shards)
    is_redone, max_bad = embedder["redo"], embedder["max_bad"]
    tasks += [state.shard for state in states if is_redone or is_open(state, max_bad)]
    return tasks


@contextlib.contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Join the cluster, or start one; the workers get the code that runs here."""
    modules = [str(_ROOT / name) for name in ("schemas", "cache", "pipeline")]
    try:
        _reach(address)
        ray.init(
            address=address or "local",
            runtime_env={"py_modules": modules},
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster: {' '.join(str(error).split())[:300]}",
            where=f"--address {address}" if address else "--engine ray",
            fix="start one with `ray start --head`; if it is there, see whether it wants a token "
            "(RAY_AUTH_MODE=token); or leave --address out for this machine alone",
            can_retry=isinstance(error, OSError),  # its head may be starting
        ) from error
    except SystemExit:  # Ray has a handler of its own, with a code of its own
        sys.exit(128 + signal.SIGTERM)
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """Connect once: where nobody listens, Ray would try for minutes.

    Raises: OSError.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        place = (host.strip("[]"), int(port))
        socket.create_connection(place, _REACH_SECONDS).close()


class _Run:
    """Tasks and who is at them."""

    def __init__(
        self,
        ray: Any,
        workspace: Storage,
        plan: Plan,
        tasks: Sequence[int],
        options: WorkerOptions,
        gpus: float | None,
    ) -> None:
        self.nodes: dict[str, Node] = {}
        self._ray, self._workspace, self._plan, self._options = ray, workspace, plan, options
        self._gpus = gpus
        self._tasks = deque(tasks)
        self._met: dict[int, list[Node]] = {}  # where each task failed, a try each
        self._looks: dict[Any, _Seat] = {}  # calls that ask how far a worker is
        self._was_loaded = False  # any worker, ever
        self._waited_since = time.monotonic()
        self._failed: dict[int, PipelineError] = {}
        self._seats: list[_Seat] = []
        self._unfit: PipelineError | None = None
        self._loss = ""  # why the last worker died
        self._looked_for_nodes = float("-inf")

    def work(self) -> None:
        """See that every task is done or given up.

        Raises: as `embed_on_ray`.
        """
        num_items = sum(self._num_rows(task) for task in self._tasks)
        with listening() as stop, Progress("embed", num_items) as progress:
            try:
                while self._num_open():
                    if stop.reason:
                        sys.exit(128 + signal.Signals[stop.reason])
                    self._seat_workers()
                    self._give_tasks()
                    calls = [seat.call for seat in self._seats if seat.call is not None]
                    for call in self._ended(calls):
                        seat = next(each for each in self._seats if each.call == call)
                        self._settle(seat, progress)
                    self._give_tasks()
                    self._look(progress)
            finally:
                self._stop(progress)
        if len(self._failed) == 1:
            raise next(iter(self._failed.values()))
        if self._failed:
            raise self._failure("all others are done")

    def _ended(self, calls: list[Any]) -> list[Any]:
        """Wait a little for a call to end; return all that did."""
        if not calls:
            time.sleep(_LOOK_SECONDS)
            return []
        self._ray.wait(calls, timeout=_LOOK_SECONDS)
        ended, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        return ended

    def _failure(self, others: str) -> ShardsFailedError:
        numbers = sorted(self._failed)
        first = self._failed[numbers[0]]
        shown = "; ".join(f"{_name(each)}: {self._failed[each].what}" for each in numbers[:3])
        return ShardsFailedError(
            f"{len(numbers)} shards failed, {others}: {shown}",
            where=first.where,
            fix=f"{first.fix}; `python cli.py status` lists what is left",
            can_retry=all(error.can_retry for error in self._failed.values()),
        )

    def _num_rows(self, task: int) -> int:
        return 0 if task == LABELS else self._plan.shard_items[task]

    def _seat_workers(self) -> None:
        """Give every node the workers that it can hold; nodes come and go, and workers die."""
        now = time.monotonic()
        if now - self._looked_for_nodes < _NODES_SECONDS:
            return
        self._looked_for_nodes = now
        found = self._alive()
        if self._gpus is None:
            has_any = any(each["Resources"].get("GPU") for each in found.values())
            self._gpus = 1.0 if has_any else 0.0
        for key in [each for each in found if each not in self.nodes]:
            self.nodes[key] = node = divided(found[key], self._gpus)
            logger.info(
                "%s joins: %d cores and %g GPUs a worker, workers: %d",
                node.name,
                node.num_cores,
                self._gpus,
                node.num_seats,
                extra=event("node_joined", node=node.name, workers=node.num_seats),
            )
        for key, node in self.nodes.items():
            if node.is_alive and key not in found:
                node.is_alive = False
                logger.warning("%s is lost", node.name, extra=event("node_lost", node=node.name))
            num_seats = sum(seat.node is node for seat in self._seats)
            if node.is_alive and node.num_lost < _MOST_TRIES * node.num_seats:
                num_wanted = self._num_open() - len(self._seats)
                num_free = node.num_seats - num_seats
                self._seats += [self._seat(node) for _ in range(min(num_free, num_wanted))]
        if not self._seats:
            raise self._nobody()
        if not all(seat.is_loading for seat in self._seats):
            self._waited_since = now
        elif now - self._waited_since > _WAITING_SECONDS:
            self._waited_since = now
            logger.warning(
                "no worker has started yet; do other jobs of the cluster hold its nodes? "
                "see `ray status`",
                extra=event("waiting", workers=len(self._seats)),
            )

    def _num_open(self) -> int:
        return len(self._tasks) + sum(seat.task is not None for seat in self._seats)

    def _alive(self) -> dict[str, dict[str, Any]]:
        return {each["NodeID"]: each for each in self._ray.nodes() if each["Alive"]}

    def _nobody(self) -> PipelineError:
        """Return why there is no worker."""
        if self._failed:
            return self._failure(f"{len(self._tasks)} are open and no worker is left")
        if self._unfit is not None and not self._was_loaded:
            return self._unfit
        if any(node.num_seats for node in self.nodes.values()):
            return ShardsFailedError(
                f"all workers are lost, {len(self._tasks)} shards are open; the last one: "
                + self._loss,
                where=", ".join(node.name for node in self.nodes.values()),
                fix="run the same command again when nodes are there, it goes on; "
                "if no worker ever starts, see that its node has all requirements",
                can_retry=self._was_loaded,
            )
        return ConfigError(
            f"no node has {self._gpus:g} GPUs for a worker: "
            + ", ".join(
                f"{each['NodeManagerHostname']} has {each['Resources'].get('GPU', 0):g}"
                for each in list(self._alive().values())[:3]
            ),
            where="--gpus-per-worker",
            fix="start nodes with GPUs, or use --gpus-per-worker 0",
        )

    def _seat(self, node: Node) -> _Seat:
        on_node = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        kind = self._ray.remote(concurrency_groups={"watch": 1})(Worker)
        actor = kind.options(
            num_cpus=node.num_cores,
            num_gpus=self._gpus,
            # A node that is lost takes its workers with it; one that joins gets its own.
            scheduling_strategy=on_node(node.key, soft=False),
        ).remote(self._workspace.location, node.name, self._options, node.num_cores)
        return _Seat(node=node, actor=actor, call=actor.load.remote())

    def _give_tasks(self) -> None:
        for seat in self._seats:
            if seat.call is None and (task := self._task_for(seat.node)) is not None:
                self._tasks.remove(task)
                seat.task, seat.num_items = task, 0
                seat.call = seat.actor.embed.remote(task)
                seat.node.began = seat.node.began or time.monotonic()

    def _task_for(self, node: Node) -> int | None:
        """Return the next task that did not fail there; any, where no other node can take it."""
        others = [seat.node for seat in self._seats if seat.node is not node]
        for task in self._tasks:
            met = self._met.get(task, [])
            if node not in met or all(each in met for each in others):
                return task
        return None

    def _look(self, progress: Progress) -> None:
        """See how far the workers are, and show what they log."""
        asked = list(self._looks.values())
        for seat in self._seats:
            if not seat.is_loading and seat not in asked:
                call = seat.actor.look.options(concurrency_group="watch").remote()
                self._looks[call] = seat
        calls = list(self._looks)
        answered: list[Any] = []
        if calls:
            answered, _ = self._ray.wait(calls, num_returns=len(calls), timeout=_ANSWER_SECONDS)
        for call in answered:
            seat = self._looks.pop(call)
            # A worker that died meanwhile is settled by its own call.
            with contextlib.suppress(self._ray.exceptions.RayError):
                task, num_items, records = self._ray.get(call)
                if seat.task == task:  # and has begun with it
                    self._count(seat, num_items, progress)
                for record in records:
                    logging.getLogger(record.name).handle(record)
        now = time.monotonic()
        at_work = [node for node in self.nodes.values() if node.began is not None and node.is_alive]
        for node in at_work:
            node.rates.append((now, node.num_items))
        progress.note(
            ", ".join(f"{node.name} {node.rate():,.0f}/s" for node in at_work),
            nodes={node.name: round(node.rate(), 1) for node in at_work},
        )

    def _count(self, seat: _Seat, num_items: int, progress: Progress) -> None:
        """Note how many items of a worker's task are done."""
        progress.update(num_items - seat.num_items)
        seat.node.num_items += num_items - seat.num_items
        seat.num_items = num_items

    def _settle(self, seat: _Seat, progress: Progress) -> None:
        """Take note of how a call ended."""
        exceptions = self._ray.exceptions
        try:
            num_items = self._ray.get(seat.call)
        except exceptions.RayTaskError as error:
            self._count(seat, 0, progress)
            if not isinstance(error.cause, PipelineError):  # what is wrong with it, nobody knows
                self._lose(seat, error)
                return
            self._give_back(seat, error.cause)
        except exceptions.RayError as error:
            self._count(seat, 0, progress)
            self._lose(seat, error)
            return
        else:
            self._note_success(seat, num_items, progress)
        seat.node.ended = time.monotonic()
        seat.call = seat.task = None

    def _note_success(self, seat: _Seat, num_items: int, progress: Progress) -> None:
        """Believe a worker that is ready, and the cache that a task is done."""
        task = seat.task
        if task is None:
            seat.node.num_lost, self._was_loaded = 0, True
            return
        if task == LABELS:
            is_done = not labels_problem(self._workspace, self._plan)
        else:
            is_done = shard_state(self._workspace, self._plan, task).state == "done"
            seat.node.num_shards += 1
        if not is_done:
            raise ShardsFailedError(
                f"{seat.node.name} says that {_name(task)} is done, and here it is not",
                where=self._workspace.location,
                fix="see that every node reaches this workspace by the same path or URL",
            )
        self._count(seat, num_items, progress)
        progress.update(self._num_rows(task) - num_items)  # chunks that were there before

    def _give_back(self, seat: _Seat, error: PipelineError) -> None:
        """Decide what becomes of a task whose worker lives and says why it failed."""
        if seat.task is None and not error.can_retry:
            self._unfit = error
            logger.error(
                "%s takes no shards: %s",
                seat.node.name,
                error.what,
                extra=event("node_unfit", node=seat.node.name, what=error.what),
            )
            seat.node.num_seats -= 1
            self._dismiss(seat)
        elif seat.task is None:
            seat.node.num_lost += 1
            self._loss = error.what
            self._dismiss(seat)
        elif error.can_retry:
            self._try_again(seat, error, error.what)
        elif isinstance(error, _OF_ONE_SHARD):
            self._fail(seat.task, error)
        else:
            raise error  # it would meet every shard

    def _lose(self, seat: _Seat, error: Exception) -> None:
        """Give a dead worker's task to others."""
        self._dismiss(seat)
        self._loss = " ".join(str(error).split())[:300]
        logger.warning(
            "%s: a worker died%s: %s",
            seat.node.name,
            "" if seat.task is None else f" at {_name(seat.task)}, which goes to another",
            self._loss,
            extra=event("worker_lost", node=seat.node.name, shard=seat.task, reason=self._loss),
        )
        if seat.task is None:
            seat.node.num_lost += 1
        else:
            self._try_again(seat, None, self._loss)

    def _dismiss(self, seat: _Seat) -> None:
        """Free what a worker holds of its node, dead or alive, for the one after it."""
        self._ray.kill(seat.actor)
        self._seats.remove(seat)

    def _try_again(self, seat: _Seat, error: PipelineError | None, reason: str) -> None:
        """Put a task at the end of the queue, or give it up."""
        task = seat.task
        assert task is not None
        met = self._met.setdefault(task, [])
        met.append(seat.node)
        if len(met) < _MOST_TRIES:
            self._tasks.append(task)
            return
        alive = self._alive()
        self._fail(
            task,
            error
            or ShardsFailedError(
                f"{_name(task)} failed {_MOST_TRIES} times, the last time with: {reason}",
                where=seat.node.name,
                fix=f"run `python cli.py embed --shard {max(task, 0)}` there to see why",
                can_retry=any(node.key not in alive for node in met),
            ),
        )

    def _fail(self, task: int, error: PipelineError) -> None:
        self._failed[task] = error
        logger.error(
            "%s: %s",
            _name(task),
            error.what,
            extra=event("shard_failed", shard=task, what=error.what),
        )

    def _stop(self, progress: Progress) -> None:
        """End the workers, gently those that are at a shard."""
        at_work = [seat for seat in self._seats if seat.task is not None]
        if at_work:
            logger.info("stopping %d workers; finished chunks are kept", len(at_work))
        for seat in at_work:
            seat.actor.stop.options(concurrency_group="watch").remote()
        if at_work:
            calls = [seat.call for seat in at_work]
            self._ray.wait(calls, num_returns=len(calls), timeout=_STOP_SECONDS)
            self._look(progress)  # what they had to say last
        for seat in self._seats:
            self._ray.kill(seat.actor)


def _name(task: int) -> str:
    return "the labels" if task == LABELS else f"shard {task:05d}"
