"""Stage two: train the fusion network on the cached embeddings. The only training loop.

Takes cache, items and label graph; writes runs/<name>/: config.json, history.jsonl, TensorBoard
events, model.safetensors (the epoch with the best val/top1), predictions.parquet and, last,
metrics.json, which means "finished". Encoders are not needed and not loaded.

B batch, D embedding width, C classes.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors.torch import save
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cache.storage import Storage
from pipeline.device import pick_device
from pipeline.fusion import FusionNetwork
from pipeline.losses import DenseTensors, check_gamma, loss_parts, to_tensors
from pipeline.metrics import Metrics
from pipeline.metrics_table import metrics_table
from pipeline.predictions import (
    Classifier,
    measure_predictions,
    network_inputs,
    predict,
    predictions_file,
)
from pipeline.progress import Progress, duration
from pipeline.runs import (
    finished_metrics,
    make_network,
    make_record,
    refuse_unused,
    run_name,
)
from pipeline.targets import harden
from pipeline.targets.online_smoothing import OnlineTargets
from pipeline.targets.options import TargetOptions
from pipeline.targets.registry import Approach, get_approach
from pipeline.tensors import FitData
from pipeline.text_table import TextTable
from schemas.configs import to_json
from schemas.errors import FitError
from schemas.plan import Plan
from schemas.run import FitConfig, RunRecord
from schemas.targets import Targets

logger = logging.getLogger(__name__)

_WARMUP_SHARE = 0.05


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

    def table(self) -> TextTable:
        """Return the metrics on test."""
        return metrics_table(
            self.metrics,
            title=f"{self.name} on {self.metrics.num_items:,} test items",
            note=f"{'reused' if self.is_reused else duration(self.seconds)}: {self.folder}",
        )


def fit(
    workspace: Storage,
    plan: Plan,
    config: FitConfig,
    *,
    device: str = "auto",
    data: FitData | None = None,
) -> RunResult:
    """Train one run, or return it if the same config on the same inputs is finished.

    Args:
        workspace: where the plan, the cache and the label graph are.
        plan: the workspace's plan.
        config: everything that shapes the run.
        device: where to train.
        data: already read, on that device; None reads it.
    Raises: CacheIncompleteError, NeighborsError, TargetError, FitError.
    """
    chosen = pick_device(device)
    approach = get_approach(config.approach)
    refuse_unused(config, [config.approach])
    check_gamma(config.gamma)
    data = data or FitData(workspace, plan, chosen, allow_partial=config.allow_partial)
    record = make_record(config, data, chosen)
    name = run_name(config)
    if (metrics := finished_metrics(workspace, name, record)) is not None:
        logger.info("run %s is finished already", name)
        return RunResult(
            name=name,
            folder=workspace.where(f"runs/{name}"),
            metrics=metrics,
            is_reused=True,
            seconds=0.0,
        )
    return _run(workspace, data, record, approach, build_targets(config, data))


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


def _run(
    workspace: Storage, data: FitData, record: RunRecord, approach: Approach, targets: Targets
) -> RunResult:
    """Train, evaluate on test and write the run's files, metrics.json last."""
    name = run_name(record.config)
    place = f"runs/{name}"
    # Unfinished, or of other inputs; first what says "finished".
    for old in sorted(workspace.sizes(place), key=lambda name: not name.endswith("/metrics.json")):
        workspace.remove(old)
    workspace.write(f"{place}/config.json", to_json(record).encode())
    data.load()
    device = data.labels.device
    started = time.perf_counter()
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        workspace.folder(place) as folder,
    ):
        torch.manual_seed(record.config.seed)
        network = _Trainer(data, record, approach, targets, folder).train()
    seconds = time.perf_counter() - started
    classifier = Classifier([(network, record.config.modalities)])
    predictions = predict(classifier, data, data.test)
    metrics = measure_predictions(predictions, data, data.test)
    workspace.write(f"{place}/model.safetensors", save(network.state_dict()))
    workspace.write(f"{place}/predictions.parquet", predictions_file(predictions, data, data.test))
    workspace.write(f"{place}/metrics.json", to_json(metrics).encode())
    return RunResult(
        name=name,
        folder=workspace.where(place),
        metrics=metrics,
        is_reused=False,
        seconds=seconds,
    )


class _Trainer:
    """One run under way."""

    def __init__(
        self,
        data: FitData,
        record: RunRecord,
        approach: Approach,
        targets: Targets,
        folder: Path,
    ) -> None:
        config = record.config
        self.data, self.config, self.folder = data, config, folder
        self.approach, self.start = approach, targets
        self.batch_size = record.batch_size
        device = data.labels.device
        self.network = make_network(config, data).to(device)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.lr,
            fused=True,
        )
        self.targets = to_tensors(targets, device)
        self.online: OnlineTargets | None = None
        if approach.is_online:
            assert isinstance(self.targets, DenseTensors)
            self.online = OnlineTargets(self.targets.matrix)
        is_low = record.compute_dtype == "bfloat16"
        self.autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_low)
        self.order = torch.Generator().manual_seed(config.seed)
        self.steps_per_epoch = -(-len(data.train) // self.batch_size)
        self.num_steps = config.epochs * self.steps_per_epoch
        self.step = 0

    def train(self) -> FusionNetwork:
        """Train until the epochs or the patience are used up; return the best epoch's network."""
        best_top1, best_epoch = -1.0, 0
        best_state: dict[str, Tensor] = {}
        total = self.config.epochs * len(self.data.train)
        with (
            SummaryWriter(str(self.folder)) as events,
            (self.folder / "history.jsonl").open("w", encoding="utf-8") as history,
            Progress(f"fit {run_name(self.config)}", total) as progress,
        ):
            for epoch in range(1, self.config.epochs + 1):
                row = self._epoch(epoch, progress)
                history.write(json.dumps(row) + "\n")
                history.flush()
                for name, value in row.items():
                    events.add_scalar(name, value, epoch)
                if row["val/top1"] > best_top1:
                    best_top1, best_epoch = row["val/top1"], epoch
                    best_state = {
                        name: value.clone() for name, value in self.network.state_dict().items()
                    }
                elif epoch - best_epoch >= self.config.patience:
                    break
        logger.info(
            "%s: best val/top1 %.4f in epoch %d of %d",
            run_name(self.config),
            best_top1,
            best_epoch,
            epoch,
        )
        self.network.load_state_dict(best_state)
        return self.network.eval()

    def _epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        """Train one epoch and look at val; return a line of history."""
        started = time.perf_counter()
        self.network.train()
        sums = torch.zeros(2, device=self.data.labels.device)
        for rows in self._batches():
            focal, kl = self._step(rows)
            sums += len(rows) * torch.stack([focal, kl])
            progress.update(len(rows))
        seconds = time.perf_counter() - started
        focal_mean, kl_mean = (sums / len(self.data.train)).tolist()
        loss = focal_mean + self._kl_weight() * kl_mean
        if not math.isfinite(loss):
            raise FitError(
                f"the loss is {loss} after epoch {epoch} (step {self.step})",
                where=f"run {run_name(self.config)}",
                fix=f"lower --lr (it was {self.config.lr:g})",
            )
        if self.online is not None:
            self.targets = self.online.next_epoch()
        classifier = Classifier([(self.network, self.config.modalities)])
        predictions = predict(classifier, self.data, self.data.val)
        val = measure_predictions(predictions, self.data, self.data.val)
        return {
            "epoch": epoch,
            "step": self.step,
            "train/loss": loss,
            "train/focal": focal_mean,
            "train/kl": kl_mean,
            "train/lr": self.optimizer.param_groups[0]["lr"],
            "val/top1": val.top1,
            "val/top5": val.top5,
            "val/neighbors_at_5": val.neighbors_at_5,
            "val/nll": val.nll,
            "fit/items_per_second": len(self.data.train) / seconds,
        }

    def _batches(self) -> Iterator[Int64[Tensor, " B"]]:
        order = torch.randperm(len(self.data.train), generator=self.order)
        shuffled = self.data.train[order.to(self.data.train.device)]
        yield from shuffled.split(self.batch_size)

    def _kl_weight(self) -> float:
        return self.config.kl_weight if self.approach.has_kl else 0.0

    def _step(self, rows: Int64[Tensor, " B"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Take one optimizer step; return the batch's mean focal loss and KL."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * lr_factor(self.step, self.num_steps)
        if self.approach.is_hardened:
            progress = self.step / self.num_steps
            hardened = harden(self.start, progress, schedule=self.config.schedule)
            self.targets = to_tensors(hardened, rows.device)
        labels = self.data.labels[rows]
        with self.autocast:
            logits = self.network(*network_inputs(self.data, rows, self.config.modalities))
        focal, kl = loss_parts(logits, labels, self.targets, self.config.gamma, self._kl_weight())
        if self.online is not None:
            self.online.add(logits.detach(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        (focal + self._kl_weight() * kl).backward()
        self.optimizer.step()
        self.step += 1
        return focal.detach(), kl.detach()


def lr_factor(step: int, num_steps: int) -> float:
    """Return the share of the highest learning rate: linear warm-up, then a half cosine to 0."""
    warmup_steps = max(1, round(_WARMUP_SHARE * num_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))
