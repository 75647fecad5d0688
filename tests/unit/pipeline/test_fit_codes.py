"""Training on binary codes: what is learned, kept and refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cache.storage import LocalStorage
from cache.writer import write_labels
from pipeline.codes import make_codes
from pipeline.compare import compare
from pipeline.export_model import export_model
from pipeline.fit import fit
from pipeline.label_codes import read_codes
from pipeline.neighbors import write_neighbors
from pipeline.predictions import Classifier, predict
from pipeline.run_folder import RunFolder
from pipeline.runs import load_run, run_folder, run_name
from pipeline.tensors import FitData
from schemas.errors import CodesError, ConfigError, FitError, TargetError
from schemas.plan import Plan
from schemas.run import FitConfig
from tests.fakes import CPU, fake_embeddings, fake_plan, fake_workspace, write_shard

QUICK = FitConfig(
    approach="codes",
    codes="embedding-24",
    epochs=6,
    batch_size=32,
    hidden_dim=32,
    num_hidden=1,
    lr=0.01,
)


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    make_codes(workspace, plan, num_bits=24)
    return plan


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "num_outputs"),
    [({}, 24), ({"code_head": "beside"}, 30), ({"code_loss": "bits"}, 24)],
    ids=str,
)
def test_each_head_learns_with_as_many_outputs_as_it_needs(
    workspace: LocalStorage, plan: Plan, changes: dict[str, str], num_outputs: int
) -> None:
    """Bits alone need Q columns, not C: what makes them cheap with thousands of classes."""
    result = fit(workspace, plan, replace(QUICK, **changes), runtime=CPU)
    assert result.metrics.top1 > 0.8
    found = weights(result.folder)
    assert found["mlp.3.weight"].shape == (num_outputs, 32)
    np.testing.assert_array_equal(
        found["codes"].numpy(), read_codes(workspace, plan, "embedding-24").bits
    )


def test_shuffled_codes_are_those_of_other_labels(workspace: LocalStorage, plan: Plan) -> None:
    """The same set of codes, by the run's seed; six well separated classes learn them too."""
    right = read_codes(workspace, plan, "embedding-24").bits
    orders = []
    for seed in (0, 1):
        config = replace(QUICK, approach="codes-shuffled", seed=seed)
        found = weights(fit(workspace, plan, config, runtime=CPU).folder)["codes"].numpy()
        orders.append([right.tolist().index(code) for code in found.tolist()])
        assert sorted(orders[-1]) == list(range(6))
        assert orders[-1] != list(range(6))
    assert orders[0] != orders[1]


def test_a_class_without_a_train_item_is_found_by_its_code(workspace: LocalStorage) -> None:
    """What codes are for: its name is like its items, so its bits are said without any of them."""
    num_labels = 40
    plan = fake_plan(workspace, num_items=4000, num_labels=num_labels)
    embeddings = fake_embeddings(plan)
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    centers = np.random.default_rng(0).standard_normal((num_labels, plan.encoder.embed_dim))
    write_labels(workspace, plan, centers, compute_dtype="float32", seconds=0.0)
    write_neighbors(workspace, plan, k=3)
    make_codes(workspace, plan, num_bits=64)
    data = FitData(workspace, plan, torch.device("cpu"))
    seen_train, seen_val = (rows[data.labels[rows] >= 4] for rows in (data.train, data.val))
    data = data.with_rows(train=seen_train, val=seen_val, test=data.test)
    config = replace(QUICK, codes="embedding-64", hidden_dim=128)
    found = {
        approach: fit(
            workspace, plan, replace(each, approach=approach), runtime=CPU, data=data
        ).metrics.zero_shot_top1
        for approach, each in (
            ("codes", config),
            ("codes-shuffled", config),
            ("1", replace(QUICK, codes=FitConfig(approach="1").codes)),
        )
    }
    assert found["codes"] > 0.2  # chance: one of 40
    assert found["codes-shuffled"] < 0.05
    assert found["1"] == 0.0


def test_other_codes_make_another_run(workspace: LocalStorage, plan: Plan) -> None:
    """Of the same name: what was trained on the old ones is not taken for finished."""
    first = fit(workspace, plan, QUICK, runtime=CPU)
    assert fit(workspace, plan, QUICK, runtime=CPU).is_reused
    make_codes(workspace, plan, num_bits=24, seed=5)
    data = FitData(workspace, plan, torch.device("cpu"))
    with pytest.raises(FitError, match="codes changed since"):
        load_run(workspace, first.name, data)
    assert not fit(workspace, plan, QUICK, runtime=CPU).is_reused
    plain = fit(workspace, plan, replace(QUICK, approach="1", codes="embedding-512"), runtime=CPU)
    make_codes(workspace, plan, num_bits=24, seed=6)
    data = FitData(workspace, plan, torch.device("cpu"))
    assert load_run(workspace, plain.name, data)[1].inputs.codes_sha256 == ""


def test_a_run_is_whole_without_the_workspaces_codes(
    workspace: LocalStorage, plan: Plan, tmp_path: Path
) -> None:
    """Its folder can be copied anywhere: answers and ONNX come from the codes that it learned."""
    result = fit(workspace, plan, replace(QUICK, code_head="beside"), runtime=CPU)
    data = FitData(workspace, plan, torch.device("cpu"))
    network, _ = load_run(workspace, result.name, data)
    expected = predict(Classifier([(network, "both")]), data, data.test)
    (workspace.root / "codes" / "embedding-24.parquet").unlink()
    folder = run_folder(workspace, result.name)
    copied = folder.network(folder.record().config, embed_dim=16, num_classes=6)
    again = predict(Classifier([(copied, "both")]), data, data.test)
    np.testing.assert_array_equal(again.top_labels, expected.top_labels)
    exported = export_model(RunFolder(workspace, f"runs/{result.name}"), tmp_path / "exported")
    assert exported.max_difference < 1e-4
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "binary codes embedding-24, beside class logits; loss of classes" in card
    assert folder.record().inputs.codes_sha256[:12] in card


def test_without_codes_fit_names_the_command(workspace: LocalStorage, plan: Plan) -> None:
    """Before anything is read that takes time."""
    with pytest.raises(CodesError) as caught:
        fit(workspace, plan, replace(QUICK, codes="both-32"), runtime=CPU)
    assert "python cli.py codes --source both --bits 32" in caught.value.fix


def test_options_of_codes_are_refused_elsewhere(workspace: LocalStorage, plan: Plan) -> None:
    """An option that would do nothing is a mistake of who gave it."""
    with pytest.raises(TargetError, match="does not use codes"):
        fit(workspace, plan, replace(QUICK, approach="1"), runtime=CPU)
    with pytest.raises(TargetError, match="does not use alpha"):
        fit(workspace, plan, replace(QUICK, alpha=0.2), runtime=CPU)
    with pytest.raises(TargetError, match="does not use gamma"):
        fit(workspace, plan, replace(QUICK, code_loss="bits", gamma=1.0), runtime=CPU)
    with pytest.raises(ConfigError, match="code_loss"):
        replace(QUICK, code_head="beside", code_loss="bits")
    with pytest.raises(ConfigError, match="alone, beside"):
        replace(QUICK, code_head="both")


def test_few_labels_and_many_bits_are_no_divergence(workspace: LocalStorage) -> None:
    """Fresh weights sum 2,048 bits to logits far from 0; that is loud, not wrong."""
    plan = fake_workspace(workspace, num_items=60, num_labels=2)
    write_neighbors(workspace, plan, k=1)
    make_codes(workspace, plan, num_bits=2048)
    config = FitConfig(approach="codes", codes="embedding-2048", epochs=2)
    assert fit(workspace, plan, config, runtime=CPU).metrics.top1 > 0.5


@pytest.mark.parametrize("code_loss", ["classes", "bits"])
def test_a_rate_at_which_codes_diverge_is_refused(
    workspace: LocalStorage, plan: Plan, code_loss: str
) -> None:
    """Else a run of hours ends in a network that says the same of everything."""
    config = replace(QUICK, code_loss=code_loss, lr=1e4)
    with pytest.raises(FitError, match="diverges"):
        fit(workspace, plan, config, runtime=CPU)


def test_the_name_says_codes_head_and_loss() -> None:
    """And no hash, so that a person finds the run."""
    plain = FitConfig(approach="codes", codes="both-64", code_head="beside", seed=3)
    assert run_name(plain) == "codes-both-64-beside-classes-s3"
    assert run_name(replace(plain, approach="codes-shuffled")).startswith("codes-shuffled-both-64")


def test_codes_stand_in_the_tables_beside_the_approaches(
    workspace: LocalStorage, plan: Plan
) -> None:
    """`compare --approaches 1,codes,codes-shuffled`."""
    found = compare(
        workspace,
        plan,
        approaches=["codes", "codes-shuffled"],
        num_seeds=1,
        config=replace(QUICK, approach="1"),
        runtime=CPU,
    )
    titles = [entry.title for entry in found.entries if entry.kind == "approach"]
    assert titles == [
        "1. one-hot (baseline)",
        "codes. binary codes",
        "codes-shuffled. binary codes of other labels (control)",
    ]
