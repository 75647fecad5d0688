"""Stage one: run the frozen encoders over shards of the catalog and commit what they say.

Takes the plan's items tables and the catalog, writes image and title embeddings and a rows table
per shard, and the label embeddings. Several processes may share the work, on one machine or many:
a shard's lease says who makes it, its commit that it is made. Cost at 12M items: one decode and
two forward passes for each distinct picture and title; the only stage that wants GPU nodes.
"""

import contextlib
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cache.layout import open_arrays
from cache.storage import Storage, open_storage
from pipeline.embed_shard import ShardEncoder
from pipeline.logs import event
from pipeline.shard_embedder import ShardEmbedder
from schemas.errors import EXIT_ERROR, DeviceError, LeaseError, TooManyBadRowsError
from schemas.plan import Plan

logger = logging.getLogger(__name__)


def embed(
    workspace: Storage,
    plan: Plan,
    shards: Sequence[int],
    get_encoder: Callable[[], ShardEncoder],
    *,
    with_labels: bool,
    is_one_of_many: bool = False,
    **options: Any,
) -> None:
    """Embed shards and, asked to or with shard 0, the labels; skip what is done.

    Args:
        workspace: where the plan is.
        plan: the workspace's plan.
        shards: positions in the plan.
        get_encoder: loads the planned encoder; called once, and only if there is work.
        with_labels: embed the labels too.
        is_one_of_many: leave shards that another process is writing to it instead of refusing,
            and believe it when it says that one is done.
        options: of `ShardEmbedder`.
    Raises: as `ShardEmbedder.embed`; TooManyBadRowsError only after all shards.
    """
    for shard in shards:
        plan.shard_range(shard)
    too_bad: list[TooManyBadRowsError] = []
    with ShardEmbedder(
        workspace, plan, get_encoder, checksums=not is_one_of_many, **options
    ) as embedder:
        if with_labels or 0 in shards:
            embedder.embed_labels()
        open_arrays(workspace, plan)
        for shard in shards:
            try:
                embedder.embed(shard)
            except TooManyBadRowsError as error:
                too_bad.append(error)
            except LeaseError as error:
                if not is_one_of_many:
                    raise
                logger.info("%s: left to it", error.what, extra=event("shard_left", shard=shard))
    if too_bad:
        raise too_bad[0]


def embed_on_devices(
    workspace: Storage,
    shards: Sequence[int],
    devices: Sequence[str],
    work: Callable[[str, Sequence[int], str], None],
) -> None:
    """Run a process for every device named; each makes the shards that nobody else is making.

    Args:
        workspace: where the plan is.
        shards: positions in the plan.
        devices: such as cuda:0; one named twice is shared by two processes.
        work: embeds shards of a workspace on a device; must be importable by name.
    Raises: DeviceError naming the devices whose process failed.
    """
    # Not fork: CUDA does not survive it.
    context = multiprocessing.get_context("spawn")
    processes = []
    for number, device in enumerate(devices):
        # Each begins elsewhere, so that they meet only at the end.
        turned = [*shards[number :: len(devices)], *shards]
        mine = list(dict.fromkeys(turned))
        args = (workspace.location, mine, device)
        processes.append(context.Process(target=work, args=args, name=device))
    with _running(processes):
        for process in processes:
            process.join()
    failed = [process for process in processes if process.exitcode]
    if failed:
        codes = [process.exitcode for process in failed]
        raise DeviceError(
            f"the process on {', '.join(process.name for process in failed)} failed with exit "
            f"code {', '.join(map(str, codes))}",
            where=open_storage(workspace.location).where("cache"),
            fix="its error stands above; run the same command again, it goes on",
            can_retry=EXIT_ERROR not in codes,
        )


@contextlib.contextmanager
def _running(processes: list[multiprocessing.context.SpawnProcess]) -> Iterator[None]:
    """Start processes; end them with us, gently, whatever happens."""
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()
