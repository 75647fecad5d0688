"""Training on a small real cache."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from cache.lease import Lease
from cache.storage import LocalStorage
from pipeline import runs
from pipeline.codes import make_codes
from pipeline.fit import RunResult, fit
from pipeline.neighbors import write_neighbors
from pipeline.run_folder import RUN_FILES
from pipeline.runs import run_name, without_unused
from pipeline.targets.registry import APPROACHES, get_approach
from pipeline.tensors import FitData
from pipeline.trainer import lr_factor
from schemas.errors import (
    CacheIncompleteError,
    ConfigError,
    FitError,
    LeaseError,
    NeighborsError,
    TargetError,
    WorkspaceError,
)
from schemas.plan import Plan
from schemas.run import FitConfig
from tests.fakes import CPU, commit_path, fake_embeddings, fake_plan, fake_workspace, write_shard

QUICK = FitConfig(approach="4", epochs=6, batch_size=32, hidden_dim=32, lr=0.01)


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    make_codes(workspace, plan)
    return plan


def run(workspace: Path, plan: Plan, **changes: object) -> RunResult:
    return fit(workspace, plan, replace(QUICK, **changes), runtime=CPU)


def read_history(result: RunResult) -> list[dict[str, float]]:
    lines = (Path(result.folder) / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("approach", APPROACHES)
def test_every_approach_learns(workspace: LocalStorage, plan: Plan, approach: str) -> None:
    """Six well separated classes; chance is one in six."""
    result = run(workspace, plan, approach=approach)
    assert result.metrics.top1 > 0.8
    assert result.metrics.num_items == 60
    history = read_history(result)
    assert history[-1]["train/loss"] < history[0]["train/loss"]
    assert (history[0]["train/kl"] > 0) == get_approach(approach).has_kl


def test_the_record_says_in_which_precision_a_run_was_made(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hardware decides it, and figures of two machines differ by it in the last digits."""
    losses = {}
    for has_it, dtype in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(runs, "has_bfloat16", lambda device, has_it=has_it: has_it)
        result = run(workspace, plan, patience=5 + has_it)  # two runs of the same six epochs
        record = json.loads((Path(result.folder) / "config.json").read_text())
        assert record["compute_dtype"] == dtype
        assert result.metrics.top1 > 0.8
        weights = load_file(Path(result.folder) / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        losses[dtype] = read_history(result)[0]["train/loss"]
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.02)


def test_all_files_of_a_run_are_there_and_fit_together(workspace: LocalStorage, plan: Plan) -> None:
    """What a later stage needs stands in the run's own folder."""
    result = run(workspace, plan)
    names = {path.name for path in Path(result.folder).iterdir()}
    expected = {"config.json", "history.jsonl", "metrics.json", "model.safetensors"}
    assert expected | {"predictions.parquet"} <= names
    assert any("tfevents" in name for name in names)
    table = pq.read_table(Path(result.folder) / "predictions.parquet").to_pylist()
    assert len(table) == 60
    top1 = np.mean([row["top_labels"][0] == row["label"] for row in table])
    assert top1 == pytest.approx(result.metrics.top1)
    assert all(len(row["top_labels"]) == 6 for row in table)
    assert sum(table[0]["top_probabilities"]) == pytest.approx(1, abs=1e-5)
    config = json.loads((Path(result.folder) / "config.json").read_text())
    assert config["packages"]["torch"] == torch.__version__.split("+")[0]
    assert config["batch_size"] == 32


def test_the_same_seed_gives_the_same_run(workspace: LocalStorage, plan: Plan) -> None:
    """To the last bit of the weights, on one machine's CPU."""
    first = run(workspace, plan)
    weights = load_file(Path(first.folder) / "model.safetensors")
    (Path(first.folder) / "commit.json").unlink()
    second = run(workspace, plan)
    assert second.metrics == first.metrics
    assert not second.is_reused
    for name, value in load_file(Path(second.folder) / "model.safetensors").items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    other = run(workspace, plan, seed=1)
    assert other.name != first.name
    assert any(
        (value != weights[name]).any()
        for name, value in load_file(Path(other.folder) / "model.safetensors").items()
    )


def test_training_leaves_the_global_random_state_alone(workspace: LocalStorage, plan: Plan) -> None:
    """A notebook that calls fit keeps its own randomness."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(workspace, plan)
    torch.testing.assert_close(torch.rand(3), expected)


def test_a_finished_run_is_reused(workspace: LocalStorage, plan: Plan) -> None:
    """So that compare and the demo cost seconds the second time."""
    first = run(workspace, plan)
    before = (Path(first.folder) / "model.safetensors").stat().st_mtime_ns
    second = run(workspace, plan)
    assert second.is_reused
    assert second.metrics == first.metrics
    assert (Path(first.folder) / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_of_other_inputs_is_made_again(workspace: LocalStorage, plan: Plan) -> None:
    """A new label graph, or another cache, makes the old figures stale."""
    run(workspace, plan)
    write_neighbors(workspace, plan, k=2)
    assert not run(workspace, plan).is_reused
    assert run(workspace, plan).is_reused
    write_shard(workspace, plan, 0, fake_embeddings(plan, seed=9))
    assert not run(workspace, plan).is_reused


def test_a_run_that_is_made_again_stops_being_finished_first(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two removals, half a run would pass for a finished one."""
    run(workspace, plan)
    write_neighbors(workspace, plan, k=2)
    removed: list[str] = []
    remove = LocalStorage.remove

    def note(self: LocalStorage, name: str) -> None:
        removed.append(name)
        remove(self, name)

    monkeypatch.setattr(LocalStorage, "remove", note)
    run(workspace, plan)
    assert len(removed) > 3
    assert removed[0].endswith("/commit.json")


@pytest.mark.parametrize("file", [*RUN_FILES, "commit.json"])
@pytest.mark.parametrize("damage", [None, b"", b"\xff\xfe", b"{"])
def test_a_damaged_run_is_made_again(
    workspace: LocalStorage, plan: Plan, file: str, damage: bytes | None
) -> None:
    """Not a stack trace, and not trusted either; the figures come out the same."""
    first = run(workspace, plan, epochs=1)
    path = Path(first.folder) / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    again = run(workspace, plan, epochs=1)
    assert not again.is_reused
    assert again.metrics == first.metrics
    assert run(workspace, plan, epochs=1).is_reused


def test_figures_that_somebody_changed_are_not_believed(
    workspace: LocalStorage, plan: Plan
) -> None:
    """A top1 of 750% would stand in every table."""
    first = run(workspace, plan)
    path = Path(first.folder) / "metrics.json"
    path.write_text(path.read_text().replace('"top1": ', '"top1": 7'))
    assert run(workspace, plan).metrics == first.metrics


def test_a_run_belongs_to_one_process(workspace: LocalStorage, plan: Plan) -> None:
    """Two that write one history leave neither's."""
    name = run_name(QUICK)
    with Lease(workspace, name), pytest.raises(LeaseError) as caught:
        run(workspace, plan)
    assert caught.value.where.endswith(f"runs/{name}/lease.json")
    assert run(workspace, plan).metrics.top1 > 0.8
    assert not (workspace.root / "runs" / name / "lease.json").exists()


def test_runs_are_named_for_what_they_are() -> None:
    """Two configs that differ never share a folder."""
    assert run_name(FitConfig(approach="5")) == "a5-affinity-odds-s0"
    assert run_name(FitConfig(approach="1", seed=3)) == "a1-onehot-s3"
    assert run_name(FitConfig(approach="4", weighting="softmax")) == "a4-softmax-s0"
    assert run_name(FitConfig(approach="1", modalities="image")) == "a1-onehot-image-s0"
    plain, other = FitConfig(approach="3"), FitConfig(approach="3", lr=3e-4)
    assert run_name(other).startswith(f"{run_name(plain)}-")
    assert run_name(other) != run_name(FitConfig(approach="3", lr=4e-4))


def test_options_that_an_approach_ignores_do_not_make_another_run() -> None:
    """So that `compare --weighting softmax` not train the baseline again."""
    changed = FitConfig(approach="1", alpha=0.3, weighting="softmax", schedule="odds")
    assert without_unused(changed) == FitConfig(approach="1")
    softmax = FitConfig(approach="5", weighting="softmax", temperature=0.2, schedule="odds")
    assert without_unused(softmax) == softmax
    assert without_unused(replace(softmax, weighting="affinity")).temperature is None


def test_a_finished_run_is_found_without_reading_embeddings(
    workspace: LocalStorage, plan: Plan
) -> None:
    """At 12M items that is 25 GB not read."""
    run(workspace, plan)
    data = FitData(workspace, plan, torch.device("cpu"))
    assert fit(workspace, plan, QUICK, runtime=CPU, data=data).is_reused
    assert data.residency is None


def test_a_run_folder_that_cannot_be_written_is_one_clear_error(
    workspace: LocalStorage, plan: Plan
) -> None:
    """A full disk or a file in the way, in the middle of training too."""
    (workspace.root / "runs").write_text("x")
    with pytest.raises(WorkspaceError) as caught:
        run(workspace, plan)
    assert "runs" in caught.value.where


def test_the_best_epoch_is_kept_and_patience_ends_the_run(
    workspace: LocalStorage, plan: Plan
) -> None:
    """More epochs than needed cost no accuracy, and little time."""
    result = run(workspace, plan, epochs=40, patience=2)
    history = read_history(result)
    best = max(range(len(history)), key=lambda i: (history[i]["val/top1"], -i))
    assert len(history) == best + 3 < 40


def test_one_modality_alone_ignores_the_other(workspace: LocalStorage) -> None:
    """So that the figures for images alone and titles alone mean what they say."""
    plan = fake_plan(workspace, num_items=300, num_labels=6)
    embeddings = fake_embeddings(plan)
    rng = np.random.default_rng(4)
    embeddings["title"] = rng.standard_normal(embeddings["title"].shape).astype(np.float16)
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    fake_workspace_labels(workspace, plan)
    assert run(workspace, plan, modalities="image").metrics.top1 > 0.8
    assert run(workspace, plan, modalities="title").metrics.top1 < 0.5


def fake_workspace_labels(workspace: Path, plan: Plan) -> None:
    from cache.writer import write_labels

    label_emb = np.random.default_rng(1).standard_normal((6, 16))
    write_labels(workspace, plan, label_emb, compute_dtype="float32", seconds=0.0)
    write_neighbors(workspace, plan, k=3)


def test_items_without_either_modality_are_errors_when_held_out(workspace: LocalStorage) -> None:
    """They are left out of training, never out of the denominator."""
    plan = fake_plan(workspace, num_items=300, num_labels=6)
    embeddings = fake_embeddings(plan)
    for name in ("image", "title"):
        embeddings[name][::2] = np.nan
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    fake_workspace_labels(workspace, plan)
    data = FitData(workspace, plan, torch.device("cpu"))
    assert (data.train % 2 == 1).all()
    result = run(workspace, plan)
    assert result.metrics.num_items == 60
    assert result.metrics.top1 <= 0.5
    assert result.metrics.neighbors_at_5_shares[0] >= 0.5
    table = pq.read_table(Path(result.folder) / "predictions.parquet").to_pylist()
    assert all((row["top_labels"] == []) == (row["row"] % 2 == 0) for row in table)


def test_an_incomplete_cache_is_refused_unless_allowed(workspace: LocalStorage, plan: Plan) -> None:
    """A figure over half the items must be asked for."""
    commit_path(workspace, 1).unlink()
    with pytest.raises(CacheIncompleteError, match="1 of 3 shards"):
        run(workspace, plan)
    assert run(workspace, plan, allow_partial=True).metrics.top1 > 0.4


def test_a_missing_or_stale_graph_names_the_command(workspace: LocalStorage) -> None:
    """The graph is both target and ruler."""
    plan = fake_workspace(workspace)
    with pytest.raises(NeighborsError, match="no label graph") as caught:
        run(workspace, plan)
    assert "cli.py neighbors" in caught.value.fix
    write_neighbors(workspace, plan, k=3)
    fake_workspace(workspace, num_labels=6)
    from cache.writer import write_labels

    other = np.random.default_rng(2).standard_normal((6, 16))
    write_labels(workspace, plan, other, compute_dtype="float32", seconds=0.0)
    with pytest.raises(NeighborsError, match="stale: label_emb_crc32c"):
        run(workspace, plan)


def test_divergence_stops_with_the_learning_rate_named(workspace: LocalStorage, plan: Plan) -> None:
    """Hours of NaN help nobody."""
    with pytest.raises(FitError, match="the loss is") as caught:
        run(workspace, plan, lr=1e30)
    assert "--lr" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"approach": "6"}, TargetError),
        ({"alpha": 1.0, "approach": "2"}, TargetError),
        ({"weighting": "cosine"}, TargetError),
        ({"approach": "1", "alpha": 0.3}, TargetError),
        ({"approach": "3", "weighting": "softmax"}, TargetError),
        ({"approach": "4", "alpha": 0.3}, TargetError),
        ({"gamma": 0.5}, TargetError),
    ],
)
def test_bad_target_options_are_refused(
    workspace: LocalStorage, plan: Plan, changes: dict[str, object], error: type[Exception]
) -> None:
    """Before an epoch is spent."""
    with pytest.raises(error):
        run(workspace, plan, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": -1.0},
        {"dropout": 1.0},
        {"fusion": "sum"},
        {"kl_weight": -1.0},
        {"kl_weight": math.nan},
        {"lr": math.nan},
        {"lr": math.inf},
        {"temperature": math.inf},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, object]) -> None:
    """Each is named with its value."""
    with pytest.raises(ConfigError, match=next(iter(changes))):
        replace(QUICK, **changes)


def test_too_few_items_are_refused(workspace: LocalStorage) -> None:
    """A catalog without a test item has nothing to report."""
    plan = fake_plan(workspace, num_items=6, num_labels=6)
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, fake_embeddings(plan))
    fake_workspace_labels(workspace, plan)
    with pytest.raises(FitError, match="no val items"):
        run(workspace, plan)


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    """Linear to the highest, then a half cosine."""
    factors = [lr_factor(step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(1 / 50)
    assert max(factors) == factors[50] == 1.0
    assert factors[-1] < 1e-5
    assert factors[525] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)), abs=1e-9)
    assert lr_factor(0, 1) == 1.0
