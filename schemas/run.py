"""The configuration of one training run, and what it was fed."""

import math
from dataclasses import dataclass, field

from schemas.errors import ConfigError

RESIDENCIES = ("auto", "device", "host", "stream")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Every number that shapes a run; two runs with the same one on the same inputs are one."""

    approach: str
    """Label representation: 1, 1b, 2, 3, 4, 5, taxonomy, online, codes or codes-shuffled."""
    seed: int = 0
    """Of initial weights, batch order and dropout."""
    alpha: float = 0.1
    """Smoothing mass off the true class."""
    weighting: str = "affinity"
    """Approaches 4 and 5: `affinity`, `controlled` or `softmax`."""
    temperature: float | None = None
    """Of the softmax weighting; None: solved."""
    beta: float = 10.0
    """Approach `taxonomy`: how fast weights fall with the distance."""
    schedule: str = "odds"
    """Approach 5: `linear`, `geometric` or `odds`."""
    codes: str = "embedding-512"
    """Approach codes: which, as `codes` names them."""
    code_head: str = "alone"
    """Approach codes: `alone` in place of the classes' own logits, or `beside` them."""
    code_loss: str = "classes"
    """Approach codes: focal loss of `classes` decided by their codes, or of `bits` each."""
    gamma: float = 2.0
    """Focusing parameter of the focal loss."""
    kl_weight: float = 1.0
    """Lambda: weight of the KL term, where the approach has one."""
    fusion: str = "attention"
    """`attention`, `concat` or `gated`."""
    modalities: str = "both"
    """`both`, `image` or `title`: what the network may see."""
    hidden_dim: int = 1024
    """Width of the MLP."""
    num_hidden: int = 1
    """Hidden layers of the MLP."""
    dropout: float = 0.1
    """In the MLP."""
    epochs: int = 12
    """Planned passes over the train items; early stopping may end sooner."""
    patience: int = 5
    """Epochs without a better val/top1 after which training stops."""
    batch_size: int | None = None
    """B; None: the power of two nearest below 1/50 of the train items, 64 to 4096."""
    lr: float = 2e-3
    """Highest learning rate, after warm-up."""
    weight_decay: float = 0.01
    """Of AdamW."""
    allow_partial: bool = False
    """Train although some shards are not embedded."""
    clean: bool = True
    """Leave out what clean.parquet says, where there is one."""

    def __post_init__(self) -> None:
        """Check ranges and names; those of targets are checked where targets are made."""
        positive = ("hidden_dim", "num_hidden", "epochs", "patience", "lr")
        problems = [
            f"{name}={getattr(self, name)}" for name in positive if getattr(self, name) <= 0
        ]
        if self.batch_size is not None and self.batch_size < 1:
            problems.append(f"batch_size={self.batch_size}")
        for name, valid in (
            ("fusion", ("attention", "concat", "gated")),
            ("modalities", ("both", "image", "title")),
            ("code_head", ("alone", "beside")),
            ("code_loss", ("classes", "bits")),
        ):
            if getattr(self, name) not in valid:
                problems.append(f"{name}={getattr(self, name)!r} (valid: {', '.join(valid)})")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout={self.dropout} (expected 0 <= dropout < 1)")
        if self.kl_weight < 0 or self.weight_decay < 0:
            problems.append("a negative kl_weight or weight_decay")
        numbers = ("alpha", "temperature", "beta", "gamma", "kl_weight", "lr", "weight_decay")
        problems += [
            f"{name}={getattr(self, name)}"
            for name in numbers
            if not math.isfinite(getattr(self, name) or 0.0)
        ]
        if self.code_head == "beside" and self.code_loss == "bits":
            problems.append("code_loss='bits' with code_head='beside', whose classes it leaves out")
        if not 0 <= self.seed < 2**32:
            problems.append(f"seed={self.seed} (expected 0 to 2^32 - 1)")
        if problems:
            raise ConfigError(
                f"values out of range: {'; '.join(problems)}",
                where="fit options",
                fix="see `python cli.py fit --help`",
            )


@dataclass(frozen=True, kw_only=True)
class FitRuntime:
    """How and where a run is computed; what comes out is the same within rounding."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    residency: str = "auto"
    """Where the embeddings are: `device`, `host`, `stream`, or `auto` by free memory."""
    accumulate: int = 1
    """Parts of a batch that are computed one after another."""
    resume: bool = False
    """Go on from the run's checkpoint, if there is one."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints."""

    def __post_init__(self) -> None:
        """Check the numbers; a device is checked where it is used."""
        if self.accumulate < 1:
            raise ConfigError(
                f"accumulate={self.accumulate}", where="--accumulate", fix="use 1 or more"
            )
        if self.residency not in RESIDENCIES:
            raise ConfigError(
                f"unknown residency {self.residency!r}",
                where="--residency",
                fix=f"use one of {', '.join(RESIDENCIES)}",
            )


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """Hashes of the artifacts a run was made from."""

    cache_sha256: str
    """Of all item embeddings and rows."""
    items_sha256: str
    """Of ids, labels and splits."""
    graph_sha256: str
    """Of the label graph."""
    clean_sha256: str = ""
    """Of which items `clean` keeps; empty if all are taken."""
    codes_sha256: str = ""
    """Of the labels' codes; empty where the approach has none."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """config.json of a run."""

    version: int = 1
    """Of this format."""
    config: FitConfig
    """As asked for."""
    inputs: FitInputs
    """As read."""
    num_items: dict[str, int] = field(default_factory=dict)
    """That it used, by split."""
    batch_size: int
    """As resolved."""
    device: str
    """Where it ran."""
    residency: str = ""
    """Where the embeddings were: streamed items come in another order."""
    num_processes: int = 1
    """That shared it."""
    num_threads: int = 1
    """Of a CPU that each process used; sums run in another order with another number."""
    compute_dtype: str = "float32"
    """In which the network was multiplied; weights and losses are float32 always."""
    git_commit: str
    """Of the code; empty outside a checkout."""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of what computed it."""


@dataclass(frozen=True, kw_only=True)
class RunCommit:
    """commit.json of a run: written last, only it says "finished"."""

    version: int = 1
    """Of this format."""
    sha256: dict[str, str]
    """Of each file of the run."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How finished runs are looked at."""

    runs: tuple[str, ...]
    """One, or several whose probabilities are averaged; beginnings of names will do."""
    decision: str = "argmax"
    """How probabilities become a ranking: `argmax`, `crm` or `neighbors`."""
    calibrate: bool = False
    """Divide log-probabilities by the temperature that fits val best."""
    split: str = "test"
    """`test` or `val`; thresholds and temperature come from val in any case."""
    exclude_true: bool = False
    """Do not count the true label itself in neighbors@5."""
    allow_partial: bool = False
    """Go on although some shards are not embedded."""

    def __post_init__(self) -> None:
        """Check the runs and the split; the decision is checked where it is made."""
        _refuse_twice(self.runs)
        if self.split not in ("test", "val"):
            raise ConfigError(
                f"unknown split {self.split!r}", where="--split", fix="use test or val"
            )

    def name(self) -> str:
        """Return what the evaluation is called: runs, and what is not as usual."""
        words = [*self.runs]
        words += [self.decision] * (self.decision != "argmax")
        words += ["calibrated"] * self.calibrate
        words += [self.split] * (self.split != "test")
        words += ["exclude-true"] * self.exclude_true
        return "+".join(words)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How finished runs answer for new items."""

    runs: tuple[str, ...]
    """One, or several whose probabilities are averaged: names, beginnings of names, or folders."""
    decision: str = "argmax"
    """How probabilities become a ranking: `argmax` or `crm`."""
    calibrate: bool = False
    """Divide log-probabilities by the temperature that fits val best."""
    min_precision: float | None = None
    """Abstain below the probability above which this share of the answers on val is right."""
    num_top: int = 5
    """Labels given for an item."""

    def __post_init__(self) -> None:
        """Check the numbers; runs and decision are checked where they are read."""
        _refuse_twice(self.runs)
        if self.min_precision is not None and not 0 < self.min_precision <= 1:
            raise ConfigError(
                f"min_precision={self.min_precision}",
                where="--min-precision",
                fix="give a share of right answers, such as 0.97",
            )
        if self.num_top < 1:
            raise ConfigError(f"num_top={self.num_top}", where="--top", fix="use 1 or more")


def _refuse_twice(runs: tuple[str, ...]) -> None:
    if len(set(runs)) != len(runs):
        twice = next(run for run in runs if runs.count(run) > 1)
        raise ConfigError(
            f"the mean of {twice} with itself is {twice}",
            where="--ensemble",
            fix="name another run, as one of approach 4",
        )
