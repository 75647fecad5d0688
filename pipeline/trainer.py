"""One run under way: the only training loop and the only optimizer.

What it does depends on the config, the data and the step alone, so it can stop after any step and
go on from a checkpoint as if it had not; a batch can be cut in parts, or shared by processes.

B batch, b a part of it, C classes, Q bits of a code.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.batches import Part, cut, make_batches
from pipeline.checkpoint import Checkpoint
from pipeline.dropout import Noise
from pipeline.fusion import FusionNetwork
from pipeline.journal import Journal
from pipeline.logs import event
from pipeline.losses import (
    DenseTensors,
    HardenedTensors,
    TargetTensors,
    code_loss,
    loss_parts,
    to_tensors,
)
from pipeline.metrics import outcomes
from pipeline.predictions import Classifier, network_inputs, predict
from pipeline.progress import Progress
from pipeline.ranks import Ranks
from pipeline.residency import free_bytes
from pipeline.run_folder import make_network
from pipeline.runs import run_name
from pipeline.speed import Speed, measure_speed
from pipeline.step_graph import StepGraph
from pipeline.stopping import Stop
from pipeline.targets.curriculum import Curriculum
from pipeline.targets.online_smoothing import OnlineTargets
from pipeline.targets.registry import get_approach
from pipeline.tensors import Batch, FitData
from schemas.errors import FitError, FitStoppedError
from schemas.run import FitRuntime, RunRecord
from schemas.targets import Targets

logger = logging.getLogger(__name__)

_WARMUP_SHARE = 0.05
# Losses are looked at so often: on a GPU every look waits for the steps under way.
_CHECK_STEPS = 50
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
# Taken before one is recorded: kernels are compiled, and the optimizer makes its state.
_PLAIN_STEPS = 3
_SEEDING = threading.Lock()


class Trainer:
    """One run under way."""

    def __init__(
        self,
        data: FitData,
        record: RunRecord,
        targets: Targets,
        runtime: FitRuntime,
        ranks: Ranks,
        stop: Stop,
    ) -> None:
        """Make the network and its optimizer.

        Args:
            data: loaded.
            record: the run's.
            targets: that the run starts with.
            runtime: how it is computed.
            ranks: this process among those that train it.
            stop: whether somebody asked to stop.
        """
        config = record.config
        device = data.device
        is_cuda = device.type == "cuda"
        self.data, self.record, self.config, self.runtime = data, record, config, runtime
        self.approach = get_approach(config.approach)
        self.ranks, self.stop = ranks, stop
        self.network = _seeded_network(record, data)
        self._renew_noise()
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            # A tensor can be changed between replays of a recorded step.
            lr=torch.tensor(config.lr, device=device) if is_cuda else config.lr,
            fused=True,
        )
        self.start = to_tensors(targets, device)
        self.targets: TargetTensors = self.start
        self.curriculum: Curriculum | None = None
        if self.approach.is_hardened:
            self.curriculum = Curriculum(targets, config.schedule)
            shares, entropies = torch.zeros(2, data.num_classes, device=device).unbind()
            self.targets = HardenedTensors(self.start, shares, entropies)
        self.online: OnlineTargets | None = None
        if self.approach.is_online:
            assert isinstance(self.start, DenseTensors)
            self.online = OnlineTargets(self.start.matrix)
        is_low = record.compute_dtype == "bfloat16"
        if ranks.size > 1:  # a process without rows of a batch adds zeros
            for parameter in self.network.parameters():
                parameter.grad = torch.zeros_like(parameter)
        self.autocast = torch.autocast(
            device.type,
            dtype=torch.bfloat16,
            enabled=is_low,
            cache_enabled=False,  # the cache is of the process, and other threads empty it
        )
        self.batches = make_batches(data, record.batch_size, config.seed, ranks)
        self.steps_per_epoch = -(-len(data.train) // record.batch_size)
        self.num_steps = config.epochs * self.steps_per_epoch
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        # Of the epoch under way: focal loss and KL, or loss of the bits, summed over its items.
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.recent: list[Float[Tensor, 2]] = []
        # Online targets choose rows by what they hold, and are other ones in each epoch.
        self.can_record = (
            is_cuda and ranks.size == 1 and runtime.accumulate == 1 and not self.approach.is_online
        )
        self.recorded: tuple[StepGraph, TargetTensors] | None = None
        self.num_plain_steps = 0
        self.mark = self.saved = 0.0

    def _renew_noise(self) -> None:
        self.noise = Noise(self.config.seed, self.data.device)
        self.network.set_noise(self.noise)

    def train(self, folder: Path, save: Callable[[Checkpoint], None]) -> FusionNetwork:
        """Train until the epochs or the patience are used up; return the best epoch's network.

        Args:
            folder: for history.jsonl and TensorBoard events.
            save: what keeps a checkpoint.
        Raises: FitError if the loss is no longer finite, or memory is short; FitStoppedError.
        """
        config = self.config
        with (
            _current(self.data.device),
            Journal(folder if self.ranks.is_first else None) as journal,
            Progress(
                f"fit {run_name(config)}",
                config.epochs * len(self.data.train),
                is_shown=self.ranks.is_first,
                done=self._num_trained(),
            ) as progress,
        ):
            for row in self.history:
                journal.write(row)
            self.saved = time.perf_counter()
            while not self._is_done():
                journal.write(self._epoch(progress, save))
        best = self._best_epoch()
        logger.info(
            "%s: best val/top1 %.4f in epoch %d of %d",
            run_name(config),
            self.history[best]["val/top1"],
            best + 1,
            len(self.history),
            extra=event(
                "run_trained",
                run=run_name(config),
                val_top1=self.history[best]["val/top1"],
                epoch=best + 1,
                epochs=len(self.history),
                seconds=round(self.seconds, 3),
            ),
        )
        self.network.load_state_dict(self.best)
        return self.network.eval()

    def _num_trained(self) -> int:
        num_train, num_epochs = len(self.data.train), len(self.history)
        steps = self.step - num_epochs * self.steps_per_epoch
        return num_epochs * num_train + min(steps * self._batch_size, num_train)

    def speed(self, network: FusionNetwork) -> Speed | None:
        """Put the training's pace beside that of its matrix products; None if there was none."""
        if not self.seconds or not self.ranks.is_first:
            return None
        num_parts = self.ranks.size * self.runtime.accumulate
        own = self.data.own_train(self.ranks)[: -(-self._batch_size // num_parts)]
        if not len(own):
            return None
        batch = self.data.batch(own)
        return measure_speed(
            network,
            network_inputs(self.data, batch, self.config.modalities),
            items_per_second=len(self.history) * len(self.data.train) / self.seconds,
            dtype=getattr(torch, self.record.compute_dtype),
            num_processes=self.ranks.size,
            learns_bits=self._learns_bits,
        )

    def checkpoint(self) -> Checkpoint:
        """Return all that `resume` needs."""
        tensors = {f"network.{name}": each for name, each in self.network.state_dict().items()}
        tensors |= {f"best.{name}": each for name, each in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": state[name] for name in _MOMENTS}
        tensors["sums"] = self.sums
        if self.online is not None:
            state = {name: each.clone() for name, each in self.online.state().items()}
            # Until an epoch's end each process has sums of its own.
            self.ranks.add_up([state["sums"], state["counts"]])
            tensors |= {f"online.{name}": each for name, each in state.items()}
        return Checkpoint(
            step=self.step, history=self.history, seconds=self.seconds, tensors=tensors
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same config on the same data."""
        device = self.data.device
        found: dict[str, dict[str, Tensor]] = {}
        for name, each in checkpoint.tensors.items():
            part, _, rest = name.partition(".")
            found.setdefault(part, {})[rest] = each
        self.network.load_state_dict(found["network"])
        self.best = {name: each.to(device) for name, each in found.get("best", {}).items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, each in found.get("optimizer", {}).items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = each
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.sums = found["sums"][""].to(device)
        if self.online is not None:
            loaded = self.online.load(found["online"], is_first=self.ranks.is_first)
            if checkpoint.history:
                self.targets = loaded
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
        self.history = list(checkpoint.history)

    def _is_done(self) -> bool:
        num_epochs = len(self.history)
        if num_epochs in (0, self.config.epochs):
            return num_epochs > 0
        return num_epochs - 1 - self._best_epoch() >= self.config.patience

    def _best_epoch(self) -> int:
        """Return the first epoch with the best val/top1, from 0."""
        return max(range(len(self.history)), key=lambda i: (self.history[i]["val/top1"], -i))

    def _epoch(self, progress: Progress, save: Callable[[Checkpoint], None]) -> dict[str, float]:
        """Train what is left of an epoch and look at val; return its line of history."""
        epoch, num_train = len(self.history) + 1, len(self.data.train)
        first_step = self.step - len(self.history) * self.steps_per_epoch
        self.network.train()
        before, self.mark = self.seconds, time.perf_counter()
        for part in self.batches.epoch(epoch, first_step):
            self.recent.append(self._step(part))
            self.sums += self.recent[-1] * part.num_rows
            self.step += 1
            progress.update(part.num_rows)
            if self.step % self._check_steps == 0:
                self._look(save)
        self._look(save)
        self.seconds += time.perf_counter() - self.mark
        trained = num_train - first_step * self._batch_size
        focal_mean, second_mean = (self.sums / num_train).tolist()
        loss = focal_mean + self._second_weight * second_mean
        self._check_diverged(loss)
        self.sums.zero_()
        if self.online is not None:
            self.ranks.add_up([self.online.sums, self.online.counts])
            self.targets = self.online.next_epoch()
        row = {
            "epoch": epoch,
            "step": self.step,
            "train/loss": loss,
            "train/focal": focal_mean,
            "train/bits" if self._learns_bits else "train/kl": second_mean,
            "train/lr": self._lr(self.step - 1),
            **self.ranks.of_first(self._val() if self.ranks.is_first else None),
            "fit/items_per_second": max(0, trained) / max(self.seconds - before, 1e-9),
        }
        self.history.append(row)
        if self._best_epoch() == epoch - 1:
            self.best = {name: each.clone() for name, each in self.network.state_dict().items()}
        return row

    def _val(self) -> dict[str, float]:
        classifier = Classifier([(self.network, self.config.modalities)])
        rows = self.data.val
        said = predict(classifier, self.data, rows)
        labels = self.data.labels[rows].cpu().numpy()
        found = outcomes(said.top_labels, labels, said.predicted, self.data.graph)
        return {
            "val/top1": float(found.top1.mean()),
            "val/top5": float(found.top5.mean()),
            "val/neighbors_at_5": float(found.neighbors_at_5.mean()),
            "val/nll": float(said.nll[said.predicted].mean()) if said.predicted.any() else math.nan,
        }

    @property
    def _batch_size(self) -> int:
        return self.record.batch_size

    @property
    def _learns_bits(self) -> bool:
        return self.approach.has_codes and self.config.code_loss == "bits"

    @property
    def _second_weight(self) -> float:
        if self._learns_bits:
            return 1.0
        return self.config.kl_weight if self.approach.has_kl else 0.0

    def _lr(self, step: int) -> float:
        return self.config.lr * lr_factor(step, self.num_steps)

    @property
    def _check_steps(self) -> int:
        return 1 if self.data.device.type == "cpu" else _CHECK_STEPS

    def _step(self, part: Part) -> Float[Tensor, "2"]:
        """Take one optimizer step; return the batch's two mean losses."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self._lr(self.step))
            else:
                group["lr"] = self._lr(self.step)
        if self.curriculum is not None:
            assert isinstance(self.targets, HardenedTensors)
            found = self.curriculum.at(self.step / self.num_steps)
            for place, each in zip(
                (self.targets.share, self.targets.negative_entropy), found, strict=True
            ):
                place.copy_(torch.from_numpy(each).float(), non_blocking=True)
        self.noise.start(self.step, part.places, part.num_rows)
        cause = ""
        try:
            graph = self._graph(part)
            if graph is not None:
                return graph.take(part.batch)
            losses = self._compute(part)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            cause = " ".join(str(error).split())
        if cause:  # out here nothing holds what did not fit any more
            raise self._out_of_memory(part, cause)
        self.num_plain_steps += 1
        return losses

    def _compute(self, part: Part) -> Float[Tensor, "2"]:
        """Compute gradients and change the weights; return the batch's two mean losses."""
        self.optimizer.zero_grad(set_to_none=self.ranks.size == 1)
        losses = torch.zeros(2, device=self.data.device)
        for piece in cut(part, self.runtime.accumulate):
            losses += self._backward(piece)
        grads = [p.grad for p in self.network.parameters() if p.grad is not None]
        self.ranks.add_up([*grads, losses])
        self.optimizer.step()
        return losses

    def _graph(self, part: Part) -> StepGraph | None:
        """Return the recorded step, recorded now if it is time; None to take the step plainly."""
        is_full = part.num_rows == self._batch_size
        if not (self.can_record and is_full and self.num_plain_steps >= _PLAIN_STEPS):
            return None
        if self.recorded is not None and self.recorded[1] is self.targets:
            return self.recorded[0]
        self.recorded = None

        def step(batch: Batch) -> Float[Tensor, "2"]:
            return self._compute(Part(batch, None, self._batch_size))

        for group in self.optimizer.param_groups:
            group["capturable"] = True
        try:
            self.recorded = StepGraph(step, part.batch, self.noise.generator), self.targets
        except RuntimeError as error:  # of memory, or of something that cannot be recorded
            reason = " ".join(str(error).split())[:200]
            logger.warning("steps are launched kernel by kernel, which is slower: %s", reason)
            self.can_record = False
            self._renew_noise()  # a recording that broke off spoils its generator
            return None
        finally:
            for group in self.optimizer.param_groups:
                group["capturable"] = False
        return self.recorded[0]

    def _backward(self, piece: Part) -> Float[Tensor, "2"]:
        """Add a piece's share to the gradient; return its share of the batch's mean losses."""
        batch, places, num_rows = piece
        labels = self.data.labels[batch.rows]
        self.noise.start(self.step, places, num_rows)
        with self.autocast:
            said = self.network.heads(*network_inputs(self.data, batch, self.config.modalities))
        if self._learns_bits:
            assert said.bit_logits is not None
            assert self.network.codes is not None
            second = code_loss(said.bit_logits, self.network.codes[labels])
            first = torch.zeros_like(second)
        else:
            logits = self.network.logits(said)
            gamma, weight = self.config.gamma, self._second_weight
            first, second = loss_parts(logits, labels, self.targets, gamma, weight)
            if self.online is not None:
                self.online.add(logits.detach(), labels)
        share = len(labels) / num_rows
        ((first + self._second_weight * second) * share).backward()
        return torch.stack([first.detach(), second.detach()]) * share

    def _look(self, save: Callable[[Checkpoint], None]) -> None:
        """Check the latest losses, and save or stop where that is due."""
        self._check_finite()
        is_asked = bool(self.stop.reason)
        is_due = time.perf_counter() - self.saved >= self.runtime.checkpoint_seconds
        if self.ranks.size > 1:
            votes = torch.tensor(
                [is_asked, is_due and self.ranks.is_first],
                dtype=torch.float32,
                device=self.data.device,
            )
            self.ranks.add_up([votes])
            is_asked, is_due = (votes > 0).tolist()
        if not (is_asked or is_due):
            return
        now = time.perf_counter()
        self.seconds += now - self.mark
        found = self.checkpoint()
        if self.ranks.is_first:
            save(found)
        if is_asked:
            self.ranks.of_first()  # who ends first has torchrun end the others, one that writes too
        self.mark = self.saved = time.perf_counter()
        if is_asked:
            raise FitStoppedError(
                f"stopped by {self.stop.reason or 'another process'} after step {self.step} "
                f"of {self.num_steps}",
                where=f"run {run_name(self.config)}",
                fix="run the same command again to go on there; fit needs --resume for it",
            )

    def _check_finite(self) -> None:
        if not self.recent:
            return
        is_bad = ~torch.stack(self.recent).isfinite().all(dim=1)
        steps = self.step - len(self.recent) + 1
        self.recent.clear()
        if is_bad.any():
            self._diverged(
                f"the loss is no longer finite in step {steps + int(is_bad.nonzero()[0])}"
            )

    def _check_diverged(self, loss: float) -> None:
        """Refuse a loss far above that of a network that says nothing.

        That is log C in both terms, or log 2 of a bit. Classes that codes decide may cost both:
        fresh weights sum hundreds of bits to logits far from 0, and say wrong things loudly.
        """
        most = (1 + self._second_weight) * math.log(self.data.num_classes)
        if self._learns_bits:
            most = math.log(2)
        elif self.network.codes is not None:
            most += self.network.codes.shape[1] * math.log(2)
        if loss > 2 * most:
            self._diverged(f"the mean loss of the epoch is {loss:.4g} at step {self.step}")

    def _diverged(self, what: str) -> None:
        raise FitError(
            f"{what}: training diverges",
            where=f"run {run_name(self.config)}, --lr {self.config.lr:g}",
            fix=f"lower --lr, for example to {self.config.lr / 10:g}",
        )

    def _out_of_memory(self, part: Part, cause: str) -> FitError:
        """Say which parts of a batch would fit what is free now."""
        config, device = self.config, self.data.device
        self.optimizer.zero_grad(set_to_none=True)
        self.recorded = None
        if device.type == "cuda":
            torch.cuda.empty_cache()
        widths = 4 * self.data.num_classes + 8 * config.hidden_dim * config.num_hidden
        item_bytes = 4 * (widths + 40 * self.data.embed_dim)
        fitting = max(1, int(0.8 * free_bytes(device)) // item_bytes)
        num_rows = -(-part.num_rows // self.ranks.size)
        size = min(2 ** int(math.log2(fitting)), num_rows // (2 * self.runtime.accumulate))
        size = max(1, size)
        batch_size = size * self.ranks.size
        accumulate = -(-num_rows // size)
        return FitError(
            f"out of memory in step {self.step + 1}, batch of {part.num_rows:,} items in "
            f"{self.runtime.accumulate} parts; about {size:,} items at a time would fit ({cause})",
            where=f"run {run_name(config)} on {device}",
            fix=f"use --accumulate {accumulate} (the same steps) or --batch-size {batch_size}",
        )


def lr_factor(step: int, num_steps: int) -> float:
    """Return the share of the highest learning rate: linear warm-up, then a half cosine to 0."""
    warmup_steps = max(1, round(_WARMUP_SHARE * num_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def _seeded_network(record: RunRecord, data: FitData) -> FusionNetwork:
    """Return the network with the weights of its seed, whatever else draws random numbers."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(record.config.seed)
        network = make_network(
            record.config,
            embed_dim=data.embed_dim,
            num_classes=data.num_classes,
            codes=_codes(record, data),
        )
        return network.to(data.device)


def _codes(record: RunRecord, data: FitData) -> Bool[Tensor, "C Q"] | None:
    """Return the codes that a run's network learns; None where its approach has none."""
    config = record.config
    approach = get_approach(config.approach)
    if not approach.has_codes:
        return None
    codes = data.codes(config.codes)
    if config.code_head == "alone" and (num_equal := codes.num_collisions):
        logger.warning(
            "%d labels share their code with another: --code-head beside tells them apart",
            num_equal,
        )
    if approach.is_shuffled:
        codes = codes.shuffled(config.seed)
    return torch.from_numpy(codes.bits)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one: graphs and kernels go to that, whatever their tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On a CPU it is a plain RuntimeError of the allocator.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
