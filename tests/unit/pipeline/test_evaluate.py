"""A finished run looked at again: the same figures, and the tables that explain them."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.special import log_softmax

from cache.storage import LocalStorage
from pipeline.evaluate import evaluate
from pipeline.fit import fit
from pipeline.neighbors import write_neighbors
from pipeline.runs import find_run
from pipeline.tensors import FitData
from schemas.configs import to_dict
from schemas.errors import CacheIncompleteError, ConfigError, FitError, TargetError
from schemas.plan import Plan
from schemas.run import EvaluateConfig, FitConfig
from schemas.tables import CATEGORIES, CONFUSIONS
from tests.fakes import CPU, commit_path, fake_embeddings, fake_workspace, write_shard

QUICK = {"epochs": 2, "batch_size": 32, "hidden_dim": 16, "lr": 0.01}


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    return plan


def trained(workspace: LocalStorage, plan: Plan, approach: str = "1", **options: object) -> str:
    """Fit a run and return its name."""
    config = FitConfig(approach=approach, **{**QUICK, **options})
    return fit(workspace, plan, config, runtime=CPU).name


def look(workspace: LocalStorage, plan: Plan, *runs: str, **options: object):
    """Evaluate on the CPU."""
    return evaluate(workspace, plan, EvaluateConfig(runs=runs, **options), device="cpu")


def test_the_head_says_again_what_fit_measured(workspace: LocalStorage, plan: Plan) -> None:
    """From saved weights and single rows of the cache, without loading it whole."""
    name = trained(workspace, plan)
    found = look(workspace, plan, name)
    folder = Path(found.folder)
    first = workspace.root / "runs" / name
    old, new = (json.loads((path / "metrics.json").read_text()) for path in (first, folder))
    assert new["metrics"] == old
    assert new["runs"] == [name]
    kept, again = (pq.read_table(path / "predictions.parquet") for path in (first, folder))
    assert kept.equals(again)
    with Image.open(folder / "calibration.png") as image:
        assert image.size[0] > 300


def test_items_of_a_missing_shard_are_errors_here_as_in_fit(
    workspace: LocalStorage, plan: Plan
) -> None:
    """Their rows are never read, and they count."""
    commit_path(workspace, 1).unlink()
    name = trained(workspace, plan, allow_partial=True)
    with pytest.raises(CacheIncompleteError):
        look(workspace, plan, name)
    found = look(workspace, plan, name, allow_partial=True)
    old = json.loads((workspace.root / "runs" / name / "metrics.json").read_text())
    assert to_dict(found.result.metrics) == old
    num_missing = (~found.result.predictions.predicted).sum()
    assert 0 < num_missing < 60
    assert found.result.metrics.top1 <= 1 - num_missing / 60


def test_a_test_split_without_any_answer_says_so(workspace: LocalStorage, plan: Plan) -> None:
    """Not "no mistakes", and no picture that divides by nothing."""
    embeddings = fake_embeddings(plan)
    data = FitData(workspace, plan, torch.device("cpu"))
    embeddings["title"][data.test.numpy()] = np.nan
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    found = look(workspace, plan, trained(workspace, plan, modalities="title"))
    values = dict(found.tables[0].rows)
    assert (values["top1"], values["mistake severity"]) == ("0.00 %", "no answers")


def test_val_is_another_split(workspace: LocalStorage, plan: Plan) -> None:
    """Its predictions name val rows; figures are not those of test."""
    name = trained(workspace, plan)
    found = look(workspace, plan, name, split="val")
    rows = pq.read_table(Path(found.folder) / "predictions.parquet")["row"].to_pylist()
    assert rows == FitData(workspace, plan, torch.device("cpu")).val.tolist()
    assert found.folder.endswith(f"report/{name}+val")


def log_p(workspace: LocalStorage, plan: Plan, name: str, split: str = "test") -> np.ndarray:
    """Return a run's log-probabilities of all six labels, in label order."""
    look(workspace, plan, name, split=split)
    folder = f"report/{name}" + ("" if split == "test" else f"+{split}")
    table = pq.read_table(workspace.root / folder / "predictions.parquet")
    found = np.empty((len(table), 6))
    for row, (labels, p) in enumerate(
        zip(table["top_labels"].to_pylist(), table["top_probabilities"].to_pylist(), strict=True)
    ):
        found[row, labels] = np.log(p)
    return found


def test_three_may_be_averaged_too(workspace: LocalStorage, plan: Plan) -> None:
    """Seeds of one approach, or approaches of one seed."""
    runs = [trained(workspace, plan, approach) for approach in ("1", "3", "4")]
    mean = np.mean([np.exp(log_p(workspace, plan, run)) for run in runs], axis=0)
    found = look(workspace, plan, *runs).result.predictions
    np.testing.assert_allclose(found.top_probabilities, -np.sort(-mean, axis=1), atol=1e-6)


def test_an_ensemble_is_the_mean_of_the_probabilities(workspace: LocalStorage, plan: Plan) -> None:
    """The paper's advice: approach 4 together with the run of best top1."""
    one, other = trained(workspace, plan, "1"), trained(workspace, plan, "4")
    mean = (np.exp(log_p(workspace, plan, one)) + np.exp(log_p(workspace, plan, other))) / 2
    found = look(workspace, plan, one, other).result.predictions
    np.testing.assert_array_equal(found.top_labels, np.argsort(-mean, axis=1))
    np.testing.assert_allclose(found.top_probabilities, -np.sort(-mean, axis=1), atol=1e-6)


def test_a_network_that_sees_nothing_of_an_item_has_no_say(
    workspace: LocalStorage, plan: Plan
) -> None:
    """One of pictures and one of titles: where a title is missing, the pictures decide alone."""
    title_ok = np.ones(plan.num_items, bool)
    title_ok[::2] = False
    embeddings = fake_embeddings(plan)
    embeddings["title"][~title_ok] = np.nan
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    image = trained(workspace, plan, modalities="image")
    title = trained(workspace, plan, modalities="title")
    alone = np.exp(log_p(workspace, plan, image))
    found = look(workspace, plan, image, title).result.predictions
    rows = FitData(workspace, plan, torch.device("cpu")).test.numpy()
    blind = ~title_ok[rows]
    assert 0 < blind.sum() < len(rows)
    expected = -np.sort(-alone, axis=1)
    np.testing.assert_allclose(found.top_probabilities[blind], expected[blind], atol=1e-6)
    assert np.abs(found.top_probabilities[~blind] - expected[~blind]).max() > 0.01


def test_a_calibrated_run_has_the_temperature_of_val(workspace: LocalStorage, plan: Plan) -> None:
    """Fitted on val by hand, applied on test; the ranking stays."""
    name = trained(workspace, plan, "4", modalities="image")  # not right everywhere
    plain = look(workspace, plan, name)
    found = look(workspace, plan, name, calibrate=True)
    temperature = json.loads((Path(found.folder) / "metrics.json").read_text())["temperature"]
    val = log_p(workspace, plan, name, "val")
    data = FitData(workspace, plan, torch.device("cpu"))
    labels = data.labels[data.val].numpy()
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2000))
    nll = [-log_softmax(val / t, axis=1)[np.arange(len(val)), labels].mean() for t in grid]
    assert temperature == pytest.approx(grid[np.argmin(nll)], rel=0.01)
    assert plain.result.temperature == pytest.approx(temperature, rel=1e-3)
    np.testing.assert_array_equal(
        found.result.predictions.top_labels, plain.result.predictions.top_labels
    )
    assert found.result.metrics.ece == pytest.approx(plain.result.calibrated_ece, abs=1e-6)
    assert found.result.metrics.nll < plain.result.metrics.nll
    assert found.result.temperature == pytest.approx(1.0, abs=0.01)  # nothing is left to fit
    assert found.result.calibrated_ece == pytest.approx(found.result.metrics.ece, abs=0.01)


def test_a_decision_reorders_what_the_run_says(workspace: LocalStorage, plan: Plan) -> None:
    """The first answer stays, its neighbors follow, and the top5 pays for it or not."""
    name = trained(workspace, plan)
    plain = look(workspace, plan, name).result.predictions
    found = look(workspace, plan, name, decision="neighbors").result.predictions
    graph = FitData(workspace, plan, torch.device("cpu")).graph
    for before, after in zip(plain.top_labels, found.top_labels, strict=True):
        assert after[:4].tolist() == [before[0], *graph.neighbors[before[0]]]


def test_categories_are_counted_item_by_item(workspace: LocalStorage, plan: Plan) -> None:
    """Recall, precision, F1 and the usual confusion of each label, by loops."""
    found = look(workspace, plan, trained(workspace, plan, epochs=1))
    table = found.categories
    assert table.schema.equals(CATEGORIES)
    data = FitData(workspace, plan, torch.device("cpu"))
    truth = data.labels[data.test].tolist()
    answer = found.result.predictions.top_labels[:, 0].tolist()
    pairs = list(zip(truth, answer, strict=True))
    assert any(y != a for y, a in pairs)
    for row in table.to_pylist():
        y = row["label"]
        right = sum(pair == (y, y) for pair in pairs)
        counts = (truth.count(y), answer.count(y), right)
        assert (row["num_items"], row["num_answers"], row["num_right"]) == counts
        assert row["recall"] == pytest.approx(right / truth.count(y))
        assert row["num_train"] == int((data.labels[data.train] == y).sum())
        if answer.count(y):
            assert row["precision"] == pytest.approx(right / answer.count(y))
        wrong = [a for t, a in pairs if t == y and a != y]
        if wrong:
            assert wrong.count(row["most_confused_with"]) == max(map(wrong.count, wrong))
        else:
            assert row["most_confused_with"] is None


def test_confusions_are_all_pairs_that_occur(workspace: LocalStorage, plan: Plan) -> None:
    """Most frequent first, with what the graph and the tree say of them."""
    found = look(workspace, plan, trained(workspace, plan, epochs=1))
    table = found.confusions
    assert table.schema.equals(CONFUSIONS)
    data = FitData(workspace, plan, torch.device("cpu"))
    truth = data.labels[data.test].tolist()
    answer = found.result.predictions.top_labels[:, 0].tolist()
    wrong = [(y, a) for y, a in zip(truth, answer, strict=True) if y != a]
    rows = table.to_pylist()
    assert {(row["label"], row["answer"]): row["num_items"] for row in rows} == {
        pair: wrong.count(pair) for pair in wrong
    }
    counts = table["num_items"].to_pylist()
    assert counts == sorted(counts, reverse=True)
    for row in rows:
        assert row["is_neighbor"] == (row["answer"] in data.graph.neighbors[row["label"]])
        assert row["share"] == pytest.approx(row["num_items"] / truth.count(row["label"]))
        assert row["distance"] == 1
        assert row["label_name"] == f"Thing {row['label']}"


def test_accepted_answers_of_the_categories_add_up(workspace: LocalStorage, plan: Plan) -> None:
    """The per-category columns are the per-category coverage, taken apart."""
    found = look(workspace, plan, trained(workspace, plan))
    for each, percent in zip(found.result.acceptance, (95, 97, 99), strict=True):
        accepted = sum(found.categories[f"accepted_{percent}"].to_pylist())
        right = sum(found.categories[f"accepted_right_{percent}"].to_pylist())
        assert accepted == round(each.category_coverage * 60)
        assert accepted
        assert right / accepted == pytest.approx(each.category_precision)


def test_an_unknown_run_lists_those_that_are_finished(workspace: LocalStorage, plan: Plan) -> None:
    """A typo costs a line, not a search."""
    name = trained(workspace, plan)
    with pytest.raises(FitError, match="'a7'") as error:
        look(workspace, plan, "a7")
    assert name in error.value.fix
    with pytest.raises(FitError, match="'a8'"):
        look(workspace, plan, name, "a8")


def test_the_beginning_of_a_name_is_enough_where_one_run_has_it(
    workspace: LocalStorage, plan: Plan
) -> None:
    """Names end in a hash; nobody types it. A whole name is never ambiguous."""
    one = trained(workspace, plan, "4", seed=0)
    assert look(workspace, plan, "a4").folder.endswith(one)
    other = trained(workspace, plan, "4", seed=1)
    with pytest.raises(FitError, match="2 finished runs begin with 'a4'") as error:
        look(workspace, plan, "a4")
    assert one in error.value.fix
    assert other in error.value.fix
    with pytest.raises(ConfigError, match="itself"):
        look(workspace, plan, one, one[:-1])
    with pytest.raises(FitError, match="''"):
        look(workspace, plan, "")


def test_a_run_of_another_graph_is_refused(workspace: LocalStorage, plan: Plan) -> None:
    """Its neighbors@5 would be measured with a ruler that it was not trained on."""
    name = trained(workspace, plan)
    write_neighbors(workspace, plan, k=2)
    with pytest.raises(FitError, match="graph changed"):
        look(workspace, plan, name)


def test_damaged_weights_are_an_error_that_names_the_file(
    workspace: LocalStorage, plan: Plan
) -> None:
    """Truncated, or of another run; a config that is gone."""
    name = trained(workspace, plan)
    path = workspace.root / "runs" / name / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FitError, match=r"model\.safetensors does not match its sha256") as error:
        look(workspace, plan, name)
    assert str(path) in error.value.where
    other = trained(workspace, plan, seed=1)
    path.write_bytes(path.parent.with_name(other).joinpath(path.name).read_bytes())
    with pytest.raises(FitError, match="does not match"):
        look(workspace, plan, name)
    path.with_name("config.json").unlink()
    with pytest.raises(FitError, match=r"config\.json is missing"):
        look(workspace, plan, name)


def test_a_run_can_be_named_as_a_shell_completes_it(workspace: LocalStorage, plan: Plan) -> None:
    """`runs/NAME/` is the run as well."""
    name = trained(workspace, plan)
    assert find_run(workspace, f"runs/{name}/") == name
    with pytest.raises(FitError):
        find_run(workspace, "runs/")


def test_what_cannot_be_asked_is_refused(workspace: LocalStorage, plan: Plan) -> None:
    """An ensemble with itself, a split that does not exist, a decision nobody knows."""
    name = trained(workspace, plan)
    with pytest.raises(ConfigError, match="itself"):
        look(workspace, plan, name, name)
    with pytest.raises(ConfigError, match="'train'"):
        look(workspace, plan, name, split="train")
    with pytest.raises(TargetError, match="'best'"):
        look(workspace, plan, name, decision="best")


def test_neighbors_at_5_without_the_true_label_is_another_evaluation(
    workspace: LocalStorage, plan: Plan
) -> None:
    """It goes to its own folder and counts fewer."""
    name = trained(workspace, plan)
    plain, other = look(workspace, plan, name), look(workspace, plan, name, exclude_true=True)
    assert other.result.metrics.neighbors_at_5 < plain.result.metrics.neighbors_at_5
    assert other.folder != plain.folder
