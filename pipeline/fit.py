"""Stage two: train the fusion network on the cached embeddings. The only training loop.

Takes cache, items and label graph; writes runs/<name>/: config.json, history.jsonl, TensorBoard
events, model.safetensors (the epoch with the best val/top1), predictions.parquet and, last,
metrics.json, which means "finished". Encoders are not needed and not loaded.

B batch, D embedding width, C classes, P predictions kept per item.
"""

import json
import logging
import math
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int, Int64
from safetensors.torch import save
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cache.layout import parquet_bytes
from cache.storage import Storage
from pipeline.device import pick_device
from pipeline.fusion import FusionNetwork
from pipeline.losses import check_gamma, focal_loss, kl_to_targets, to_tensors
from pipeline.metrics import Metrics, measure
from pipeline.progress import Progress, duration
from pipeline.targets.curriculum import harden
from pipeline.targets.options import TargetOptions
from pipeline.targets.registry import Approach, get_approach, used_options
from pipeline.targets.table import TargetTable
from pipeline.tensors import FitData
from pipeline.text_table import TextTable
from schemas.configs import digest, from_json, to_dict, to_json
from schemas.errors import (
    ConfigError,
    FitError,
    TargetError,
)
from schemas.plan import Plan
from schemas.run import FitConfig, RunRecord
from schemas.tables import PREDICTIONS

logger = logging.getLogger(__name__)

NUM_PREDICTIONS = 20
_EVAL_BATCH = 4096
_WARMUP_SHARE = 0.05
_TARGET_OPTIONS = ("alpha", "weighting", "temperature", "schedule", "kl_weight")
_PACKAGES = ("torch", "numpy", "pyarrow", "zarr")


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
        metrics = self.metrics
        shares = " / ".join(f"{100 * share:.1f}" for share in metrics.neighbors_at_5_shares)
        rows = (
            ("top1", f"{100 * metrics.top1:.2f} %"),
            ("top5", f"{100 * metrics.top5:.2f} %"),
            ("neighbors@5", f"{metrics.neighbors_at_5:.2f} of 5"),
            ("items with 0/1/2/3/4/5", f"{shares} %"),
            ("nll", f"{metrics.nll:.4f} nats"),
        )
        return TextTable(
            title=f"{self.name} on {metrics.num_items:,} test items",
            columns=("metric", "value"),
            rows=rows,
            note=f"{'reused' if self.is_reused else duration(self.seconds)}: {self.folder}",
        )


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a network says of some rows."""

    top_labels: Int64[np.ndarray, "T P"]
    top_probabilities: Float[np.ndarray, "T P"]
    nll: Float[np.ndarray, " T"]
    predicted: Bool[np.ndarray, " T"]


def run_name(config: FitConfig) -> str:
    """Return what the run is called: approach, its own options, seed; a hash for the rest.

    `a5-affinity-linear-s0`; with `--lr 3e-4` as well `a5-affinity-linear-s0-1f3c9a`.
    """
    approach = get_approach(config.approach)
    words = [f"a{config.approach}", *(tag.format(**asdict(config)) for tag in approach.tag)]
    if config.modalities != "both":
        words.append(config.modalities)
    words.append(f"s{config.seed}")
    named = ("approach", "seed", "modalities", "weighting", "schedule")
    if config != FitConfig(**{name: getattr(config, name) for name in named}):
        words.append(digest(to_dict(config))[:6])
    return "-".join(words)


def without_unused(config: FitConfig) -> FitConfig:
    """Return the config with the options that its approach does not use at their defaults.

    So that one run has one name: approach 1 is the same run whatever --alpha is.
    """
    used = used_options(config.approach, config.weighting)
    plain = FitConfig(approach=config.approach)
    unused = [name for name in _TARGET_OPTIONS if name not in used]
    return replace(config, **{name: getattr(plain, name) for name in unused})


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
    _refuse_unused(config)
    check_gamma(config.gamma)
    data = data or FitData(workspace, plan, chosen, allow_partial=config.allow_partial)
    record = _record(config, data, chosen)
    name = run_name(config)
    if (metrics := _finished(workspace, name, record)) is not None:
        logger.info("run %s is finished already", name)
        return RunResult(
            name=name,
            folder=workspace.where(f"runs/{name}"),
            metrics=metrics,
            is_reused=True,
            seconds=0.0,
        )
    options = TargetOptions(
        alpha=config.alpha,
        weighting=config.weighting,
        temperature=config.temperature,
        schedule=config.schedule,
    )
    table = approach.build(data.graph, options)
    return _run(workspace, data, record, approach, table)


def _run(
    workspace: Storage, data: FitData, record: RunRecord, approach: Approach, table: TargetTable
) -> RunResult:
    """Train, evaluate on test and write the run's files, metrics.json last."""
    name = run_name(record.config)
    place = f"runs/{name}"
    for old in workspace.sizes(place):
        workspace.remove(old)  # unfinished, or of other inputs
    workspace.write(f"{place}/config.json", to_json(record).encode())
    device = data.labels.device
    started = time.perf_counter()
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        workspace.folder(place) as folder,
    ):
        torch.manual_seed(record.config.seed)
        network = _Trainer(data, record, approach, table, folder).train()
    seconds = time.perf_counter() - started
    predictions = predict(network, data, data.test, record.config.modalities)
    metrics = _measure(predictions, data, data.test)
    workspace.write(f"{place}/model.safetensors", save(network.state_dict()))
    workspace.write(f"{place}/predictions.parquet", _predictions_file(predictions, data))
    workspace.write(f"{place}/metrics.json", to_json(metrics).encode())
    return RunResult(
        name=name,
        folder=workspace.where(place),
        metrics=metrics,
        is_reused=False,
        seconds=seconds,
    )


def _refuse_unused(config: FitConfig) -> None:
    """Refuse an option that the approach would silently ignore."""
    plain = without_unused(config)
    unused = [name for name in _TARGET_OPTIONS if getattr(config, name) != getattr(plain, name)]
    if unused:
        raise TargetError(
            f"approach {config.approach} does not use {', '.join(unused)}",
            where=", ".join(f"--{name.replace('_', '-')}" for name in unused),
            fix="leave it out, or choose an approach or weighting that uses it",
        )


class _Trainer:
    """One run under way."""

    def __init__(
        self,
        data: FitData,
        record: RunRecord,
        approach: Approach,
        table: TargetTable,
        folder: Path,
    ) -> None:
        config = record.config
        self.data, self.config, self.folder = data, config, folder
        self.approach, self.table = approach, table
        self.batch_size = record.batch_size
        device = data.labels.device
        self.network = FusionNetwork(
            embed_dim=data.image_emb.shape[1],
            num_classes=data.num_classes,
            fusion=config.fusion,
            hidden_dim=config.hidden_dim,
            num_hidden=config.num_hidden,
            dropout=config.dropout,
        ).to(device)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.lr,
        )
        self.targets = to_tensors(table, device)
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
        predictions = predict(self.network, self.data, self.data.val, self.config.modalities)
        val = _measure(predictions, self.data, self.data.val)
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
            table = harden(self.table, self.step / self.num_steps, self.config.schedule)
            self.targets = to_tensors(table, rows.device)
        labels = self.data.labels[rows]
        logits = self.network(*network_inputs(self.data, rows, self.config.modalities))
        focal = focal_loss(logits, labels, gamma=self.config.gamma).mean()
        kl = torch.zeros_like(focal)
        if self._kl_weight():
            kl = kl_to_targets(logits, labels, self.targets).mean()
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


def network_inputs(
    data: FitData, rows: Int64[Tensor, " B"], modalities: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gather what the network reads of some rows, hiding the modality it may not see."""
    image_ok, title_ok = data.image_ok[rows], data.title_ok[rows]
    if modalities != "both":
        hidden = title_ok if modalities == "image" else image_ok
        hidden.zero_()
    return data.image_emb[rows], data.title_emb[rows], image_ok, title_ok


@torch.inference_mode()
def predict(
    network: FusionNetwork, data: FitData, rows: Int64[Tensor, " T"], modalities: str = "both"
) -> Predictions:
    """Run the network over some rows."""
    network.eval()
    num_kept = min(NUM_PREDICTIONS, data.num_classes)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for chunk in rows.split(_EVAL_BATCH):
        inputs = network_inputs(data, chunk, modalities)
        log_p = network(*inputs).float().log_softmax(dim=1)
        top = log_p.topk(num_kept, dim=1)
        nll = -log_p.gather(1, data.labels[chunk][:, None])[:, 0]
        parts.append((top.indices, top.values.exp(), nll, inputs[2] | inputs[3]))
    top_labels, top_p, nll, predicted = (
        torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)
    )
    return Predictions(top_labels=top_labels, top_probabilities=top_p, nll=nll, predicted=predicted)


def _measure(predictions: Predictions, data: FitData, rows: Int[Tensor, " T"]) -> Metrics:
    return measure(
        predictions.top_labels,
        data.labels[rows].cpu().numpy(),
        predictions.predicted,
        data.graph,
        nll=predictions.nll,
    )


def _predictions_file(predictions: Predictions, data: FitData) -> bytes:
    """Return predictions.parquet; an item that could not be predicted has empty lists."""
    rows = data.test.cpu().numpy()
    kept = predictions.predicted

    def lists(values: np.ndarray) -> list[list[Any]]:
        return [list(row) if ok else [] for row, ok in zip(values.tolist(), kept, strict=True)]

    columns = {
        "row": rows,
        "item_id": data.item_ids.take(pa.array(rows)),
        "label": data.labels[data.test].cpu().numpy(),
        "top_labels": lists(predictions.top_labels),
        "top_probabilities": lists(predictions.top_probabilities),
    }
    return parquet_bytes(pa.table(columns).cast(PREDICTIONS))


def _record(config: FitConfig, data: FitData, device: torch.device) -> RunRecord:
    return RunRecord(
        config=config,
        inputs=data.inputs,
        batch_size=config.batch_size or _auto_batch_size(len(data.train)),
        device=str(device),
        git_commit=_git_commit(),
        packages={name: version(name) for name in _PACKAGES},
    )


def _auto_batch_size(num_train: int) -> int:
    """Return the power of two nearest below num_train / 50, 64 to 4096."""
    return int(np.clip(2 ** math.floor(math.log2(max(num_train / 50, 1))), 64, 4096))


def _git_commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _finished(workspace: Storage, name: str, record: RunRecord) -> Metrics | None:
    """Return the metrics of a finished run of the same config and inputs, else None."""
    where = workspace.where(f"runs/{name}")
    fix = f"delete {where}"
    try:
        config_text = workspace.read(f"runs/{name}/config.json").decode()
        metrics_text = workspace.read(f"runs/{name}/metrics.json").decode()
        found = from_json(RunRecord, config_text, where=where, fix=fix)
        metrics = from_json(Metrics, metrics_text, where=where, fix=fix)
    except FileNotFoundError:
        return None
    except (ConfigError, UnicodeDecodeError) as error:
        logger.warning("run %s is made again: %s", name, error)
        return None
    if (found.config, found.inputs) != (record.config, record.inputs):
        logger.info("run %s is made again: its config or inputs changed", name)
        return None
    return metrics
