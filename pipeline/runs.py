"""The folder of a run: what it is called, what it was made of, whether it is finished."""

import json
import logging
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cache.storage import LocalStorage, Storage
from pipeline.device import device_name, has_bfloat16
from pipeline.fusion import FusionNetwork
from pipeline.metrics import Metrics
from pipeline.run_folder import RunFolder
from pipeline.status import RUN_COMMIT, finished_runs
from pipeline.targets.registry import get_approach, used_options
from pipeline.tensors import FitData
from schemas.configs import digest, to_dict, to_json
from schemas.errors import ConfigError, FitError, TargetError
from schemas.run import FitConfig, FitInputs, RunCommit, RunRecord
from schemas.tables import SPLITS

logger = logging.getLogger(__name__)

_CODE_OPTIONS = ("codes", "code_head", "code_loss")
_TARGET_OPTIONS = (
    *("alpha", "weighting", "temperature", "beta", "schedule", "kl_weight", "gamma"),
    *_CODE_OPTIONS,
)
_PACKAGES = ("torch", "numpy", "pyarrow", "zarr")


def run_name(config: FitConfig) -> str:
    """Return what the run is called: approach, its own options, seed; a hash for the rest.

    `a5-affinity-odds-s0`; with `--lr 3e-4` as well `a5-affinity-odds-s0-1f3c9a`. The hash is of
    what is not at its default, so that a new option renames no run.
    """
    approach = get_approach(config.approach)
    prefix = "a" if config.approach[0].isdigit() else ""
    words = [f"{prefix}{config.approach}", *(tag.format(**asdict(config)) for tag in approach.tag)]
    if config.modalities != "both":
        words.append(config.modalities)
    words.append(f"s{config.seed}")
    named = ("approach", "seed", "modalities", "weighting", "schedule", *_CODE_OPTIONS)
    plain = FitConfig(approach=config.approach)
    others = {
        name: value
        for name, value in to_dict(config).items()
        if name not in named and value != getattr(plain, name)
    }
    if others:
        words.append(digest(others)[:6])
    return "-".join(words)


def without_unused(config: FitConfig) -> FitConfig:
    """Return the config with the options that its approach does not use at their defaults.

    So that one run has one name: approach 1 is the same run whatever --alpha is.
    """
    used = used_options(config.approach, config.weighting, config.code_loss)
    plain = FitConfig(approach=config.approach)
    unused = [name for name in _TARGET_OPTIONS if name not in used]
    return replace(config, **{name: getattr(plain, name) for name in unused})


def refuse_unused(config: FitConfig, approaches: Sequence[str]) -> None:
    """Refuse an option that none of the approaches would use, instead of ignoring it.

    Raises: TargetError.
    """
    plain = FitConfig(approach=config.approach)
    used = {
        name
        for each in approaches
        for name in used_options(each, config.weighting, config.code_loss)
    }
    unused = [
        name
        for name in _TARGET_OPTIONS
        if getattr(config, name) != getattr(plain, name) and name not in used
    ]
    if unused:
        alone = len(approaches) == 1
        who = (
            f"approach {approaches[0]} does not use"
            if alone
            else (f"none of the approaches {', '.join(approaches)} uses")
        )
        raise TargetError(
            f"{who} {', '.join(unused)}",
            where=", ".join(f"--{name.replace('_', '-')}" for name in unused),
            fix="leave it out, or choose an approach or weighting that uses it",
        )


def make_record(config: FitConfig, data: FitData) -> RunRecord:
    """Return what config.json of a run says."""
    return RunRecord(
        config=config,
        inputs=inputs_of(config, data),
        num_items={name: len(getattr(data, name)) for name in SPLITS},
        batch_size=config.batch_size or _auto_batch_size(len(data.train)),
        device=device_name(data.device),
        compute_dtype="bfloat16" if has_bfloat16(data.device) else "float32",
        git_commit=_git_commit(),
        packages={name: version(name) for name in _PACKAGES},
    )


def inputs_of(config: FitConfig, data: FitData) -> FitInputs:
    """Return what a run of this config is made from. Raises: CodesError."""
    if not get_approach(config.approach).has_codes:
        return data.inputs
    return replace(data.inputs, codes_sha256=data.codes(config.codes).sha256())


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


def commit_run(run: RunFolder, check: Callable[[], None]) -> None:
    """Say that a run is finished: all its files are there, and these are their hashes.

    Args:
        run: whose files are written.
        check: called at the last moment; what it raises leaves the run unfinished.
    """
    text = to_json(RunCommit(sha256=run.digests()))
    run.storage.write(f"{run.place}/{RUN_COMMIT}", text.encode(), check=check)


def finished_metrics(run: RunFolder, record: RunRecord) -> Metrics | None:
    """Return the metrics of a finished run of the same config and inputs, else None."""
    if problem := run.problem():
        if run.storage.size(f"{run.place}/{RUN_COMMIT}") is not None:
            logger.warning("run %s is made again: %s", run.name, " ".join(problem))
        return None
    try:
        found = run.read_json(RunRecord, "config.json")
        metrics = run.read_json(Metrics, "metrics.json")
    except ConfigError as error:
        logger.warning("run %s is made again: %s (%s)", run.name, error.what, run.where())
        return None
    if (found.config, found.inputs) != (record.config, record.inputs):
        logger.info("run %s is made again: its config or inputs changed", run.name)
        return None
    return metrics


def run_folder(workspace: Storage, name: str) -> RunFolder:
    """Return the folder of a run, there or not."""
    return RunFolder(workspace, f"runs/{name}")


def find_run(workspace: Storage, text: str) -> str:
    """Return the finished run of this name, or the only one whose name begins so.

    Raises: FitError that lists the finished runs.
    """
    finished = finished_runs(workspace)
    text = text.rstrip("/").removeprefix("runs/")  # as a shell completes it
    found = [name for name in finished if name == text] or [
        name for name in finished if text and name.startswith(text)
    ]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} finished runs begin with" if found else "no finished run is called"
    raise FitError(
        f"{what} {text!r}",
        where=workspace.where("runs"),
        fix=f"use one of: {', '.join(found or finished) or 'none yet, fit makes them'}",
    )


def find_folder(workspace: Storage, text: str) -> RunFolder:
    """Return the folder of a finished run by its path, wherever that is, or as `find_run` does.

    Raises: FitError that lists the finished runs.
    """
    path = Path(text)
    if (path / RUN_COMMIT).is_file():
        return RunFolder(LocalStorage(path.resolve().parent), path.resolve().name)
    try:
        return run_folder(workspace, find_run(workspace, text))
    except FitError as error:
        if not path.is_dir():
            raise
        raise FitError(
            f"no {RUN_COMMIT}: this is not the folder of a finished run",
            where=str(path.resolve()),
            fix="name one that `fit` made, whole",
        ) from error


def load_run(workspace: Storage, name: str, data: FitData) -> tuple[FusionNetwork, RunRecord]:
    """Return a finished run's network, on the data's device, and its record.

    Raises: FitError if it was trained on other items, embeddings, label graph or codes than `data`
        has, or its config or weights cannot be read; CodesError if its codes are gone or stale.
    """
    run = run_folder(workspace, name)
    record = run.record()
    if record.inputs != (inputs := inputs_of(record.config, data)):
        old, new = asdict(record.inputs), asdict(inputs)
        changed = ", ".join(key.removesuffix("_sha256") for key in old if old[key] != new[key])
        raise FitError(
            f"run {name} was trained on other inputs: {changed} changed since",
            where=run.where(),
            fix="run its `python cli.py fit` again"
            + (", or give it runs of the same --clean or --no-clean" if changed == "clean" else ""),
        )
    network = run.network(record.config, embed_dim=data.embed_dim, num_classes=data.num_classes)
    return network.to(data.device), record


def read_history(workspace: Storage, name: str) -> list[dict[str, float]]:
    """Return what a run said of each of its epochs."""
    text = run_folder(workspace, name).read("history.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]
