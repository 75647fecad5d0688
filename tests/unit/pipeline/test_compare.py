"""The two tables, and the references beside them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.storage import LocalStorage
from pipeline.compare import compare, majority_top1, nearest_title_top1
from pipeline.fit import fit
from pipeline.neighbors import write_neighbors
from pipeline.status import read_status
from pipeline.tensors import FitData
from schemas.errors import TargetError
from schemas.plan import Plan
from schemas.run import FitConfig
from tests.fakes import fake_workspace

QUICK = FitConfig(approach="1", epochs=2, batch_size=32, hidden_dim=16, lr=0.01)


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    return plan


def test_both_tables_say_what_the_runs_measured(workspace: LocalStorage, plan: Plan) -> None:
    """Read back from the files, against the runs themselves."""
    found = compare(workspace, plan, approaches=["1", "4"], num_seeds=2, config=QUICK, device="cpu")
    runs = {
        name: [
            fit(workspace, plan, replace(QUICK, approach=name, seed=seed), device="cpu")
            for seed in range(2)
        ]
        for name in ("1", "4")
    }
    assert all(run.is_reused for results in runs.values() for run in results)
    mean = {name: np.mean([run.metrics.top1 for run in runs[name]]) for name in runs}
    row = found.table1.rows[1]
    assert row[0].startswith("4. ")
    assert row[1].startswith(f"{100 * mean['4']:.2f} +- ")
    assert row[2] == f"{100 * (mean['4'] - mean['1']):+.2f}"
    shares = np.mean([run.metrics.neighbors_at_5_shares for run in runs["4"]], axis=0)
    assert found.table2.rows[1][1:7] == tuple(f"{100 * share:.2f}" for share in shares)
    markdown, record, picture = map(Path, found.files)
    assert found.table1.markdown() in markdown.read_text()
    saved = json.loads(record.read_text())
    assert len(saved["approaches"]["4"]["runs"]) == 2
    assert saved["num_test"] == 60
    with Image.open(picture) as image:
        assert image.size[0] > 500
    assert read_status(workspace, plan).runs == tuple(
        sorted(run.name for results in runs.values() for run in results)
    )


def test_the_baseline_is_always_among_them(workspace: LocalStorage, plan: Plan) -> None:
    """A change needs something to change from."""
    found = compare(workspace, plan, approaches=["3"], num_seeds=1, config=QUICK, device="cpu")
    assert [row[0][:2] for row in found.table1.rows[:2]] == ["1.", "3."]


def test_an_unknown_approach_is_refused_before_any_training(
    workspace: LocalStorage, plan: Plan
) -> None:
    """Not after the four others ran."""
    with pytest.raises(TargetError, match="'7'"):
        compare(workspace, plan, approaches=["1", "7"], num_seeds=1, config=QUICK, device="cpu")
    assert not (workspace.root / "runs").exists()


def test_references_equal_the_obvious_loops(workspace: LocalStorage, plan: Plan) -> None:
    """Largest class and nearest title, item by item."""
    data = FitData(workspace, plan, torch.device("cpu"))
    labels, title_emb = data.labels.numpy(), data.title_emb.numpy().astype(np.float64)
    train, test = data.train.numpy(), data.test.numpy()
    counts = [sum(labels[row] == label for row in train) for label in range(6)]
    expected = np.mean([labels[row] == int(np.argmax(counts)) for row in test])
    assert majority_top1(data) == pytest.approx(expected)
    nearest = [train[np.argmax(title_emb[train] @ title_emb[row])] for row in test]
    hits = [labels[one] == labels[other] for one, other in zip(test, nearest, strict=True)]
    assert nearest_title_top1(data) == pytest.approx(np.mean(hits))
