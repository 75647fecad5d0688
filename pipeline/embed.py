"""Stage one: run the frozen encoders over shards of the catalog and commit what they say.

Takes the plan's items tables and the catalog, writes image and title embeddings and a rows table
per shard, and the label embeddings. Several processes may share the work, on one machine or many:
a shard's lease says who makes it, its commit that it is made. Cost at 12M items: one decode and
two forward passes for each distinct picture and title; the only stage that wants GPU nodes.
"""

import contextlib
import functools
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64

from cache.layout import open_arrays, rows_name
from cache.reader import PLAN, read_label_emb, read_label_texts, read_labels, read_plan
from cache.storage import Storage, open_storage
from cache.verify import ShardState, is_imported, shard_state
from cache.writer import write_labels
from pipeline.decode_pool import DecodePool
from pipeline.embed_shard import RETIRED, EncoderLike, embed_shard, live_files, shard_items
from pipeline.items import CatalogWatch
from pipeline.labels import label_prompts
from schemas.commit import ShardCommit
from schemas.errors import (
    CacheBrokenError,
    CacheCorruptError,
    CacheIncompleteError,
    ConfigError,
    DeviceError,
    LeaseError,
    PlanMismatchError,
    TooManyBadRowsError,
)
from schemas.plan import Plan

logger = logging.getLogger(__name__)

_MOST_WAITS = 60  # seconds


def embed_labels(
    workspace: Storage, plan: Plan, encoder: EncoderLike, batch_size: int = 256
) -> None:
    """Embed the label texts of the plan, several a label into their mean, and commit them.

    What was embedded before, for whichever label, is kept as it is.
    """
    started = time.perf_counter()
    prompts = label_prompts(read_labels(workspace, plan), plan.label_text)
    kept = read_label_texts(workspace, plan)
    known = {} if kept is None else dict(zip(*kept, strict=True))
    new = [texts for texts in dict.fromkeys(prompts) if texts not in known]
    if new:
        of_templates = [encoder.encode_texts(each, batch_size) for each in zip(*new, strict=True)]
        embedded = of_templates[0] if len(of_templates) == 1 else mean_direction(of_templates)
        known.update(zip(new, embedded, strict=True))
    label_emb = np.stack([known[texts] for texts in prompts])
    seconds = time.perf_counter() - started
    write_labels(
        workspace,
        plan,
        label_emb,
        texts=prompts,
        compute_dtype=encoder.compute_dtype,
        seconds=seconds,
    )
    logger.info(
        "labels: %d texts embedded in %.1f s, %d labels in all", len(new), seconds, len(prompts)
    )


def mean_direction(embeddings: Sequence[Float32[np.ndarray, "C D"]]) -> Float32[np.ndarray, "C D"]:
    """Average embeddings of the same labels as directions.

    mean[y] = v / |v|  with  v = sum over templates t of e_t[y] / |e_t[y]|

    Args:
        embeddings: one matrix a template.
    Returns: rows of unit length; zero where the directions cancel out.
    Source: Radford et al. 2021, section 3.1.4: prompts ensembled over the embedding space.
    """
    total = np.zeros(embeddings[0].shape)
    for matrix in embeddings:
        total += _unit(matrix.astype(np.float64))
    return _unit(total).astype(np.float32)


def _unit(matrix: Float64[np.ndarray, "C D"]) -> Float64[np.ndarray, "C D"]:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms > 0, norms, 1.0)


def embed(
    workspace: Storage,
    plan: Plan,
    shards: Sequence[int],
    get_encoder: Callable[[], EncoderLike],
    *,
    with_labels: bool,
    batch_size: int = 256,
    num_workers: int = 2,
    max_bad: float = 0.05,
    redo: bool = False,
    is_one_of_many: bool = False,
) -> None:
    """Embed shards and, asked to or with shard 0, the labels; skip what is done.

    Done is a shard whose every checksum is right and that has no more bad rows than allowed: a
    shard that had more is tried again, because the cause may be mended.

    Args:
        workspace: where the plan is.
        plan: the workspace's plan.
        shards: positions in the plan.
        get_encoder: loads the planned encoder; called once, and only if there is work.
        with_labels: embed the labels too.
        batch_size: B.
        num_workers: processes that decode pictures; 0 decodes in this one.
        max_bad: share of a shard's rows that may lack an embedding; checked after all shards.
        redo: embed the shards again although they are done.
        is_one_of_many: leave shards that another process is writing to it instead of refusing,
            and believe it when it says that one is done.
    Raises: SourceChangedError, TooManyBadRowsError, LeaseError, ShardError, SpecMismatchError,
        PlanMismatchError.
    """
    for shard in shards:
        plan.shard_range(shard)

    @functools.cache
    def encoder() -> EncoderLike:
        workspace.check_writable()  # before anything slow
        return get_encoder()

    if with_labels or 0 in shards:
        if labels_are_done(workspace, plan):
            logger.info("labels are done already")
        else:
            embed_labels(workspace, plan, encoder(), batch_size)
    open_arrays(workspace, plan)
    too_bad: list[TooManyBadRowsError] = []
    watch = CatalogWatch(plan.items)
    with contextlib.ExitStack() as stack:
        get_pool = functools.cache(lambda: _start_pool(stack, plan, num_workers, encoder()))
        for shard in shards:
            plan = _as_it_is_now(workspace, plan, shard)
            watch.source = plan.items
            state = shard_state(workspace, plan, shard, checksums=not is_one_of_many)
            again = _again(state, max_bad, redo=redo)
            commit = state.commit
            try:
                if commit is None or again is not None:
                    watch.check(live_files(*shard_items(workspace, plan, shard)))
                    pool = get_pool()
                    commit = embed_shard(
                        workspace,
                        plan,
                        shard,
                        encoder(),
                        pool,
                        watch,
                        batch_size=batch_size,
                        redo=again,
                    )
                if not is_imported(commit):  # which may lack a modality on purpose
                    _check_bad(workspace, commit, max_bad)
            except TooManyBadRowsError as error:
                too_bad.append(error)
            except LeaseError as error:
                if not is_one_of_many:
                    raise
                logger.info("%s: left to it", error.what)
    if too_bad:
        raise too_bad[0]


def _as_it_is_now(workspace: Storage, plan: Plan, shard: int) -> Plan:
    """Return the plan, which may be changed while shards are embedded; what is embedded stays.

    Raises: PlanMismatchError if the shard is another one now.
    """
    for _ in range(_MOST_WAITS):
        try:
            found = read_plan(workspace)
            break
        except CacheIncompleteError:  # for the moment that a change takes
            time.sleep(1.0)
    else:
        found = read_plan(workspace)
    if found.spec_id != plan.spec_id or found.shards[shard : shard + 1] != (plan.shards[shard],):
        raise PlanMismatchError(
            f"shard {shard} was planned anew while others were embedded",
            where=workspace.where(PLAN),
            fix="run the same command again",
        )
    return found


def _start_pool(
    stack: contextlib.ExitStack, plan: Plan, num_workers: int, encoder: EncoderLike
) -> DecodePool:
    spec = plan.encoder
    return stack.enter_context(
        DecodePool(
            spec.preprocess,
            is_scaled=spec.decode == "scaled",
            num_workers=num_workers,
            jpegs=encoder.jpegs,
        )
    )


def _again(state: ShardState, max_bad: float, *, redo: bool) -> Callable[[pa.Table], bool] | None:
    """Say which finished chunks of a shard are to be made again; None for none of them."""
    if redo:
        return lambda rows: True
    if state.is_imported:
        if state.commit is None:
            raise CacheBrokenError(
                f"shard {state.shard} was imported and is broken: {state.reason}",
                where=f"shard {state.shard}",
                fix="run the same `python cli.py import ...` again: it mends just that; "
                "or embed the shard with --redo",
            )
        logger.info("shard %05d was imported already", state.shard)
        return None
    if state.commit is None:
        if state.reasons:
            logger.warning("shard %05d is mended: %s", state.shard, state.reason)
        return None
    num_bad = _num_bad(state.commit)
    if num_bad > max_bad * (state.commit.stop - state.commit.start):
        logger.info("shard %05d has %d bad rows: trying again", state.shard, num_bad)
        return lambda rows: rows["error"].null_count < len(rows)
    logger.info("shard %05d is done already", state.shard)
    return None


def _num_bad(commit: ShardCommit) -> int:
    """Count the rows that lack an embedding and should not."""
    return commit.num_bad - commit.reasons.get(f"image: {RETIRED}", 0)


def _check_bad(workspace: Storage, commit: ShardCommit, max_bad: float) -> None:
    num_rows, num_bad = commit.stop - commit.start, _num_bad(commit)
    if num_bad > max_bad * num_rows:
        reasons = sorted(commit.reasons.items(), key=lambda each: -each[1])
        shown = ", ".join(f"{num} {reason!r}" for reason, num in reasons[:3])
        raise TooManyBadRowsError(
            f"{num_bad} of {num_rows} rows lack an image or title "
            f"({num_bad / num_rows:.1%}, allowed are {max_bad:.1%}): {shown}",
            where=f"{workspace.where(rows_name(commit.shard))}, column error",
            fix="mend the files and run the same command again, or raise --max-bad",
        )


def labels_are_done(workspace: Storage, plan: Plan) -> bool:
    """Say whether the label embeddings are there, current and undamaged."""
    try:
        read_label_emb(workspace, plan)
    except (CacheIncompleteError, CacheCorruptError, ConfigError) as error:
        logger.info("%s: making them", error.what)
        return False
    return True


def embed_on_devices(
    workspace: Storage,
    shards: Sequence[int],
    devices: Sequence[str],
    work: Callable[[str, Sequence[int], str], None],
) -> None:
    """Run one process a device; each makes the shards that nobody else is making.

    Args:
        workspace: where the plan is.
        shards: positions in the plan.
        devices: such as cuda:0.
        work: embeds shards of a workspace on a device; must be importable by name.
    Raises: DeviceError naming the devices whose process failed.
    """
    # Not fork: CUDA does not survive it.
    context = multiprocessing.get_context("spawn")
    processes = {}
    for number, device in enumerate(devices):
        # Each begins elsewhere, so that they meet only at the end.
        turned = [*shards[number :: len(devices)], *shards]
        mine = list(dict.fromkeys(turned))
        args = (workspace.location, mine, device)
        processes[device] = context.Process(target=work, args=args, name=device)
    with _running(list(processes.values())):
        for process in processes.values():
            process.join()
    failed = [device for device, process in processes.items() if process.exitcode]
    if failed:
        raise DeviceError(
            f"the process on {', '.join(failed)} failed with exit code "
            f"{', '.join(str(processes[device].exitcode) for device in failed)}",
            where=open_storage(workspace.location).where("cache"),
            fix="its error stands above; run the same command again, it goes on",
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
