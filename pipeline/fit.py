"""Stage two: train the fusion network on the cached embeddings.

Takes cache, items and label graph; writes runs/<name>/: config.json, history.jsonl, TensorBoard
events, checkpoint.safetensors while it trains, model.safetensors (the epoch with the best
val/top1), labels.parquet, encoder.json and val.safetensors (all that `predict` needs besides the
encoder's weights), predictions.parquet, metrics.json and, last, commit.json with the hashes of
these, which means "finished". Encoders are not needed and not loaded.

D embedding width, C classes.
"""

import logging
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from safetensors.torch import save

from cache.layout import lease_name, parquet_bytes
from cache.lease import Lease
from cache.storage import Storage
from pipeline.checkpoint import CHECKPOINT, Checkpoint, read_checkpoint, write_checkpoint
from pipeline.device import pick_device
from pipeline.fusion import FusionNetwork
from pipeline.logs import event
from pipeline.losses import check_gamma
from pipeline.metrics import Metrics
from pipeline.metrics_table import metrics_table
from pipeline.predictions import (
    Classifier,
    measure_predictions,
    network_inputs,
    predict,
    predictions_file,
)
from pipeline.progress import duration
from pipeline.ranks import ALONE, Ranks, joined
from pipeline.residency import STREAM
from pipeline.run_folder import ENCODER, LABELS, VAL
from pipeline.runs import (
    commit_run,
    finished_metrics,
    make_record,
    refuse_unused,
    run_folder,
    run_name,
)
from pipeline.speed import Speed, peak_bytes
from pipeline.splits import MAX_HELD_OUT
from pipeline.status import RUN_COMMIT
from pipeline.stopping import Stop, listening
from pipeline.targets.options import TargetOptions
from pipeline.targets.registry import get_approach
from pipeline.tensors import FitData
from pipeline.text_table import TextTable
from pipeline.trainer import Trainer
from schemas.configs import to_json
from schemas.errors import FitError, FitStoppedError
from schemas.plan import Plan
from schemas.run import FitConfig, FitRuntime, RunRecord
from schemas.targets import Targets

logger = logging.getLogger(__name__)

DEFAULT_RUNTIME = FitRuntime()
# Between threads that are mostly in torch: steps 8% faster than with Python's 5 ms.
_SWITCH_SECONDS = 1e-4


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run."""

    name: str
    """Folder below runs/."""
    folder: str
    """Where its files are."""
    metrics: Metrics
    """On test."""
    is_reused: bool
    """True if it was there already."""
    seconds: float
    """Of training; 0 if reused."""
    speed: Speed | None = None
    """Of training; None where it was not measured."""

    def table(self) -> TextTable:
        """Return the metrics on test."""
        note = f"{'reused' if self.is_reused else duration(self.seconds)}: {self.folder}"
        return metrics_table(
            self.metrics,
            title=f"{self.name} on {self.metrics.num_items:,} test items",
            note=note if self.speed is None else f"{note}\n{self.speed}",
        )


def fit(
    workspace: Storage,
    plan: Plan,
    config: FitConfig,
    *,
    runtime: FitRuntime = DEFAULT_RUNTIME,
    data: FitData | None = None,
) -> RunResult:
    """Train one run, or return it if the same config on the same inputs is finished.

    Under torchrun all its processes train the one run, and all of them return it.

    Args:
        workspace: where the plan, the cache and the label graph are.
        plan: the workspace's plan.
        config: everything that shapes the run.
        runtime: how and where it is computed.
        data: already read; None reads it.
    Raises: CacheIncompleteError, NeighborsError, CleanError, TargetError, FitError;
        FitStoppedError after Ctrl-C or SIGTERM.
    """
    with joined(runtime.device) as (ranks, device), listening() as stop:
        data = data or FitData(
            workspace,
            plan,
            pick_device(device),
            allow_partial=config.allow_partial,
            clean=config.clean,
        )
        reused = ranks.of_first(_reused(workspace, data, config) if ranks.is_first else None)
        if reused is not None:
            return reused
        return _Run(workspace, data, config, runtime, ranks, stop).result()


def fit_all(
    workspace: Storage,
    data: FitData,
    configs: Sequence[FitConfig],
    *,
    runtime: FitRuntime = DEFAULT_RUNTIME,
) -> list[RunResult]:
    """Train several runs on data that is read once; return them in order, finished ones as is.

    On a CPU as many at a time as there are cores, with one thread each: steps of a small network
    gain little from a second thread. On a GPU, and from disk, one after another.

    Args:
        workspace: where the runs are.
        data: items and embeddings.
        configs: of the runs.
        runtime: how they are computed.
    Raises: as fit.
    """
    found = [_reused(workspace, data, config) for config in configs]
    waiting = [config for config, result in zip(configs, found, strict=True) if result is None]
    with listening() as stop:
        runs = [_Run(workspace, data, each, runtime, ALONE, stop) for each in waiting]
        if runs:
            data.load(runtime.residency)
        num_threads = torch.get_num_threads()
        is_cpu = data.device.type == "cpu" and data.residency != STREAM
        # By the number of all runs: what is finished already may not change how others round.
        num_workers = min(len(configs), num_threads) if is_cpu else 1
        if num_workers <= 1:
            made = [run.result(is_measured=False) for run in runs]
        else:
            made = _together(runs, num_workers, num_threads // num_workers, stop)
    new = iter(made)
    return [result or next(new) for result in found]


def _together(
    runs: "Sequence[_Run]", num_workers: int, num_threads: int, stop: Stop
) -> list[RunResult]:
    """Train several runs at a time; the first error stops the others at their next step."""
    before, interval = torch.get_num_threads(), sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    with ThreadPoolExecutor(
        num_workers, initializer=torch.set_num_threads, initargs=(num_threads,)
    ) as pool:
        futures = [pool.submit(run.result, is_measured=False) for run in runs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [each for each in futures if each.done() and each.exception() is not None]
            # One that was stopped is not the reason why the others were.
            failed.sort(key=lambda each: isinstance(each.exception(), FitStoppedError))
            if failed:
                failed[0].result()
            return [future.result() for future in futures]
        except BaseException:
            stop.reason = stop.reason or "the end of another run"
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            sys.setswitchinterval(interval)
            torch.set_num_threads(before)  # what the workers said holds for new threads too


def build_targets(config: FitConfig, data: FitData) -> Targets:
    """Return the label representation that a run starts with.

    Raises: TargetError.
    """
    options = TargetOptions(
        alpha=config.alpha,
        weighting=config.weighting,
        temperature=config.temperature,
        beta=config.beta,
        schedule=config.schedule,
    )
    return get_approach(config.approach).build(data.graph, options, data.paths)


def _reused(workspace: Storage, data: FitData, config: FitConfig) -> RunResult | None:
    """Return a run that is finished already."""
    name = run_name(config)
    metrics = finished_metrics(run_folder(workspace, name), make_record(config, data))
    if metrics is None:
        return None
    logger.info("run %s is finished already", name)
    return RunResult(
        name=name,
        folder=workspace.where(f"runs/{name}"),
        metrics=metrics,
        is_reused=True,
        seconds=0.0,
    )


class _Run:
    """A run to be made."""

    def __init__(
        self,
        workspace: Storage,
        data: FitData,
        config: FitConfig,
        runtime: FitRuntime,
        ranks: Ranks,
        stop: Stop,
    ) -> None:
        """Make its targets: what cannot be made fails before embeddings are read."""
        refuse_unused(config, [config.approach])
        check_gamma(config.gamma)
        self._workspace, self._data, self._runtime = workspace, data, runtime
        self._ranks, self._stop = ranks, stop
        self._record = make_record(config, data)
        self._name = run_name(config)
        self._place = f"runs/{self._name}"
        build_targets(config, data)  # and not kept: a dense one may have gigabytes
        self._lease = Lease(workspace, self._name)

    def result(self, *, is_measured: bool = True) -> RunResult:
        """Train, evaluate on test and write the run's files, commit.json last.

        Args:
            is_measured: time the matrix products alone, too.
        """
        with self._lease if self._ranks.is_first else nullcontext():
            return self._made(is_measured=is_measured)

    def _made(self, *, is_measured: bool) -> RunResult:
        workspace, data, ranks = self._workspace, self._data, self._ranks
        config, check = self._record.config, self._lease.check
        # Somebody may have finished it while this one waited for its turn.
        reused = ranks.of_first(_reused(workspace, data, config) if ranks.is_first else None)
        if reused is not None:
            return reused
        data.load(self._runtime.residency, ranks)
        record = replace(
            self._record,
            residency=data.residency or "",
            num_processes=self._ranks.size,
            num_threads=torch.get_num_threads(),
        )
        targets = build_targets(config, data)
        trainer = Trainer(data, record, targets, self._runtime, ranks, self._stop)
        self._begin(record, trainer)
        with workspace.folder(self._place) as folder:
            network = trainer.train(
                folder, lambda found: write_checkpoint(workspace, self._place, record, found, check)
            )
        metrics = None
        if self._ranks.is_first:
            metrics = self._finish(network)
        self._say_who_held_what()
        return RunResult(
            name=self._name,
            folder=workspace.where(self._place),
            metrics=self._ranks.of_first(metrics),
            is_reused=False,
            seconds=trainer.seconds,
            speed=trainer.speed(network) if is_measured else None,
        )

    def _say_who_held_what(self) -> None:
        """Print each process's share of the items and of memory."""
        ranks, data = self._ranks, self._data
        num_rows = ranks.all_of(len(data.own_train(ranks)))
        num_bytes = ranks.all_of(peak_bytes(data.device))
        if ranks.size > 1 and ranks.is_first:
            logger.info(
                "%d processes held %s train items, peak memory %s GB",
                ranks.size,
                " + ".join(f"{num:,}" for num in num_rows),
                " + ".join(f"{num / 1e9:.2f}" for num in num_bytes),
                extra=event("ranks", train_items=num_rows, peak_bytes=num_bytes),
            )

    def _begin(self, record: RunRecord, trainer: Trainer) -> None:
        """Take up the checkpoint, if that is wanted, or clear the folder."""
        workspace, place = self._workspace, self._place
        if self._runtime.resume:
            first = self._ranks.is_first
            found = read_checkpoint(workspace, place, record) if first else None
            found = self._ranks.of_first(found)
            if found is not None:
                self._take_up(trainer, found)
        elif self._ranks.is_first and workspace.size(f"{place}/{CHECKPOINT}") is not None:
            logger.info("%s begins anew; --resume would go on where it was stopped", self._name)
        if not self._ranks.is_first:
            return
        kept = {lease_name(self._name), *[f"{place}/{CHECKPOINT}"] * bool(trainer.step)}
        # Unfinished, or of other inputs; first what says "finished".
        old = sorted(workspace.sizes(place), key=lambda name: not name.endswith(f"/{RUN_COMMIT}"))
        for name in old:
            if name not in kept:
                workspace.remove(name)
        workspace.write(f"{place}/config.json", to_json(record).encode())

    def _take_up(self, trainer: Trainer, checkpoint: Checkpoint) -> None:
        try:
            trainer.resume(checkpoint)
        except (KeyError, RuntimeError, ValueError) as error:  # of another version of the code
            where = self._workspace.where(f"{self._place}/{CHECKPOINT}")
            raise FitError(
                f"the checkpoint does not fit this run: {' '.join(str(error).split())[:200]}",
                where=where,
                fix=f"delete {where} to begin anew",
            ) from error
        logger.info("%s goes on after step %d", self._name, checkpoint.step)

    def _finish(self, network: FusionNetwork) -> Metrics:
        """Evaluate on test and write what is left to write."""
        workspace, data, place = self._workspace, self._data, self._place
        classifier = Classifier([(network, self._record.config.modalities)])
        predictions = predict(classifier, data, data.test)
        metrics = measure_predictions(predictions, data, data.test)
        files = {
            "model.safetensors": save(network.state_dict()),
            LABELS: parquet_bytes(data.label_table),
            ENCODER: to_json(data.encoder).encode(),
            VAL: _val_file(data),
            "predictions.parquet": predictions_file(predictions, data, data.test),
            "metrics.json": to_json(metrics).encode(),
        }
        for name, content in files.items():
            workspace.write(f"{place}/{name}", content, check=self._lease.check)
        commit_run(run_folder(workspace, self._name), self._lease.check)
        workspace.remove(f"{place}/{CHECKPOINT}")
        return metrics


def _val_file(data: FitData) -> bytes:
    """Return what thresholds and a temperature are chosen on, wherever the run's folder goes.

    Of more than 10,000 val items every second, third, ... one: 20 MB at D = 512.
    """
    rows = data.val[:: -(-len(data.val) // MAX_HELD_OUT)]
    inputs = network_inputs(data, data.batch(rows), "both")
    return save({**inputs._asdict(), "labels": data.labels[rows]})
