"""The two tables, and the references beside them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.storage import LocalStorage
from pipeline.compare import compare
from pipeline.compare_tables import Entry, compared, pareto_front
from pipeline.evaluate import evaluate
from pipeline.fit import fit
from pipeline.metrics import Outcomes, measure
from pipeline.neighbors import write_neighbors
from pipeline.results import Result
from pipeline.runs import read_history
from pipeline.status import read_status
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.plan import Plan
from schemas.run import EvaluateConfig, FitConfig
from tests.fakes import CPU, fake_workspace

QUICK = FitConfig(approach="1", epochs=2, batch_size=32, hidden_dim=16, lr=0.01)


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    return plan


def test_both_tables_say_what_the_runs_measured(workspace: LocalStorage, plan: Plan) -> None:
    """Read back from the files, against the runs themselves."""
    found = compare(workspace, plan, approaches=["1", "4"], num_seeds=2, config=QUICK, runtime=CPU)
    runs = {
        name: [
            fit(workspace, plan, replace(QUICK, approach=name, seed=seed), runtime=CPU)
            for seed in range(2)
        ]
        for name in ("1", "4")
    }
    assert all(run.is_reused for results in runs.values() for run in results)
    mean = {name: np.mean([run.metrics.top1 for run in runs[name]]) for name in runs}
    table1, table2 = found.tables[:2]
    row = table1.rows[1]
    assert row[0].startswith("4. ")
    assert row[1].startswith(f"{100 * mean['4']:.2f} +- ")
    assert row[2].startswith(f"{100 * (mean['4'] - mean['1']):+.2f} [")
    shares = np.mean([run.metrics.neighbors_at_5_shares for run in runs["4"]], axis=0)
    assert table2.rows[1][1:7] == tuple(f"{100 * share:.2f}" for share in shares)
    files = {Path(name).name: Path(name) for name in found.files}
    assert all(table.markdown() in files["compare.md"].read_text() for table in found.tables)
    saved = json.loads(files["compare.json"].read_text())
    assert (saved["num_test"], saved["num_seeds"]) == (60, 2)
    assert set(saved["runs"]) == {run.name for results in runs.values() for run in results}
    pictures = [name for name in files if name.endswith(".png")]
    figures = ["calibration", "compare", "coverage", "front", "learning"]
    assert sorted(pictures) == [f"{name}.png" for name in figures]
    for name in figures:
        assert files[f"{name}.svg"].read_text().startswith("<svg")
    assert [tuple(map(tuple, table["rows"])) for table in saved["tables"]] == [
        table.rows for table in found.tables
    ]
    for name in pictures:
        with Image.open(files[name]) as image:
            assert image.size[0] > 400
    assert read_status(workspace, plan).runs == tuple(
        sorted(run.name for results in runs.values() for run in results)
    )


def test_every_kind_of_line_stands_in_the_tables(workspace: LocalStorage, plan: Plan) -> None:
    """Approaches, the paper's advice, other decisions on the baseline, references."""
    found = compare(workspace, plan, approaches=["1", "4"], num_seeds=2, config=QUICK, runtime=CPU)
    assert [(entry.title, entry.kind, len(entry.results)) for entry in found.entries[:7]] == [
        ("1. one-hot (baseline)", "approach", 2),
        ("4. similarity smoothing", "approach", 2),
        ("4 and 1 together", "ensemble", 2),
        ("4 and 1 together, 2 seeds each", "ensemble", 1),
        ("1, then its neighbors", "control", 2),
        ("1, by CRM", "control", 2),
        ("largest class", "reference", 1),
    ]
    views = [entry.title.split(" (k")[0] for entry in found.entries[7:]]
    assert views == [
        f"nearest {what}, {view}"
        for what in ("label", "items")
        for view in ("image", "title", "both")
    ]


def test_an_ensemble_of_all_seeds_is_the_mean_of_all_runs(
    workspace: LocalStorage, plan: Plan
) -> None:
    """The same as naming every run to evaluate."""
    found = compare(workspace, plan, approaches=["1", "4"], num_seeds=2, config=QUICK, runtime=CPU)
    runs = tuple(
        fit(workspace, plan, replace(QUICK, approach=name, seed=seed), runtime=CPU).name
        for name in ("1", "4")
        for seed in range(2)
    )
    expected = evaluate(workspace, plan, EvaluateConfig(runs=runs), device="cpu").result
    together = found.entries[3].results[0]
    assert together.metrics.top1 == expected.metrics.top1
    assert together.metrics.nll == pytest.approx(expected.metrics.nll)


def test_the_advice_takes_the_partner_with_the_best_val_top1(
    workspace: LocalStorage, plan: Plan
) -> None:
    """Chosen on val: a choice on test would flatter it."""
    names = ["1", "3", "4"]
    found = compare(workspace, plan, approaches=names, num_seeds=1, config=QUICK, runtime=CPU)
    best = {}
    for name in ("1", "3"):
        run = fit(workspace, plan, replace(QUICK, approach=name), runtime=CPU).name
        best[name] = max(row["val/top1"] for row in read_history(workspace, run))
    expected = max(best, key=best.__getitem__)
    assert f"4 and {expected} together" in [entry.title for entry in found.entries]


def test_the_true_label_may_be_left_out_of_every_line(workspace: LocalStorage, plan: Plan) -> None:
    """Table 2 changes, Table 1 does not."""
    options = {"approaches": ["4"], "num_seeds": 1, "config": QUICK, "runtime": CPU}
    plain, other = (
        compare(workspace, plan, **options, exclude_true=exclude) for exclude in (False, True)
    )
    assert plain.tables[0].rows == other.tables[0].rows
    assert "without the true label" in other.tables[1].note
    assert plain.files[0] != other.files[0]
    for one, another in zip(plain.entries, other.entries, strict=True):
        difference = one.mean("neighbors_at_5") - another.mean("neighbors_at_5")
        assert difference == pytest.approx(one.mean("top5"))


def entry(title: str, right: list[list[float]], kind: str = "approach") -> Entry:
    """Return an entry whose seeds have these items right; all else alike."""
    results = []
    for seed in right:
        top1 = np.array(seed)
        every = np.ones(len(seed))
        found = Outcomes(
            top1=top1,
            top5=every,
            neighbors_at_5=2 * every,
            mistakes=1 - top1,
            mistake_distance=None,
        )
        metrics = measure(
            np.where(top1[:, None] > 0, [[0, 1]], [[1, 0]]),
            np.zeros(len(seed), np.int64),
            np.ones(len(seed), bool),
            NeighborGraph(np.array([[1], [0]]), np.ones((2, 1))),
            confidence=every,
            nll=every,
        )
        results.append(Result(predictions=None, answers=None, metrics=metrics, outcomes=found))
    return Entry(title=title, kind=kind, results=tuple(results))


def test_p_values_are_adjusted_over_the_trained_approaches_only() -> None:
    """A control or a reference is no hypothesis; with it every other p would grow."""
    old = entry("1", [[0.0] * 10])
    new = entry("2", [[1.0] * 8 + [0.0] * 2])
    same = entry("3", [[0.0] * 10])
    control = entry("control", [[1.0] * 10], kind="control")
    lines = compared([old, new, same, control])
    assert [line.p_top1 for line in lines] == [None, pytest.approx(2 * 2 / 2**8), 1.0, None]
    assert lines[1].changes["top1"].value == pytest.approx(0.8)
    assert lines[1].changes["severity"] is None
    assert all(change is None for change in lines[0].changes.values())


def test_a_seed_without_a_mistake_does_not_hide_the_others_severity() -> None:
    """NaN of one seed would make the mean NaN, and the front would take that for the best."""
    found = entry("2", [[1.0, 1.0], [0.0, 0.0]])
    results = tuple(
        replace(result, metrics=replace(result.metrics, severity=severity))
        for result, severity in zip(found.results, (float("nan"), 3.0), strict=True)
    )
    assert replace(found, results=results).mean("severity") == 3.0


def test_the_front_holds_whoever_nobody_beats() -> None:
    """As good in all and better in one beats; equal ones do not beat each other."""
    entries = [
        entry("low", [[0.0, 0.0]]),
        entry("high", [[1.0, 1.0]]),
        entry("high too", [[1.0, 1.0]]),
    ]
    assert pareto_front(entries) == [False, True, True]


def test_the_baseline_is_always_among_them(workspace: LocalStorage, plan: Plan) -> None:
    """A change needs something to change from."""
    found = compare(workspace, plan, approaches=["3"], num_seeds=1, config=QUICK, runtime=CPU)
    assert [row[0][:2] for row in found.tables[0].rows[:2]] == ["1.", "3."]


def test_an_option_that_no_approach_uses_is_refused(workspace: LocalStorage, plan: Plan) -> None:
    """`fit` refuses it too; silently ignored, it would look like a result."""
    config = replace(QUICK, beta=5.0, temperature=0.1)
    with pytest.raises(TargetError, match="temperature, beta") as error:
        compare(workspace, plan, approaches=["4"], num_seeds=1, config=config, runtime=CPU)
    assert error.value.where == "--temperature, --beta"
    assert not (workspace.root / "runs").exists()


def test_targets_that_cannot_be_made_fail_before_any_training(
    workspace: LocalStorage, plan: Plan
) -> None:
    """Not after all seeds of the baseline."""
    config = replace(QUICK, alpha=77.0)
    with pytest.raises(TargetError, match="alpha is 77"):
        compare(workspace, plan, approaches=["1", "3"], num_seeds=1, config=config, runtime=CPU)
    assert not (workspace.root / "runs").exists()


def test_an_unknown_approach_is_refused_before_any_training(
    workspace: LocalStorage, plan: Plan
) -> None:
    """Not after the four others ran."""
    with pytest.raises(TargetError, match="'7'"):
        compare(workspace, plan, approaches=["1", "7"], num_seeds=1, config=QUICK, runtime=CPU)
    assert not (workspace.root / "runs").exists()
