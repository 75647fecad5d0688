"""Labels that were changed are the least believed, by networks that did not see them."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cache.storage import LocalStorage
from pipeline import clean as clean_module
from pipeline import label_quality as module
from pipeline.clean import clean
from pipeline.label_quality import NUM_FOLDS, label_quality
from pipeline.neighbors import write_neighbors
from pipeline.tensors import FitData
from schemas.clean import LABEL, CleanConfig
from schemas.errors import CleanError, NeighborsError
from schemas.plan import Plan
from schemas.run import FitConfig
from schemas.tables import LABEL_QUALITY
from tests.fakes import fake_workspace

QUICK = FitConfig(approach="1", epochs=8, batch_size=32, hidden_dim=32, lr=0.01)


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    return fake_workspace(workspace)


@pytest.fixture
def data(workspace: LocalStorage, plan: Plan) -> FitData:
    write_neighbors(workspace, plan, k=3)
    return FitData(workspace, plan, torch.device("cpu"))


def test_changed_labels_are_the_least_believed(data: FitData) -> None:
    """The suggestion is what the label was; the right ones are not suspected."""
    truth = data.labels.clone()
    changed = np.arange(0, 300, 25)
    data.labels[changed] = (truth[changed] + 1) % 6
    rows = np.arange(300)
    found = label_quality(data, rows, config=QUICK)
    least = found.rows[np.argsort(found.quality)[: len(changed)]]
    assert len(set(least) & set(changed)) >= 0.8 * len(changed)
    suspicious = found.suspicious()
    assert set(found.rows[suspicious]) & set(changed) == set(found.rows[suspicious])
    assert len(suspicious) >= 0.5 * len(changed)
    right = found.suggested[suspicious] == truth.numpy()[found.rows[suspicious]]
    assert right.mean() >= 0.9
    assert (np.diff(found.quality[suspicious]) >= 0).all()


def test_only_the_items_asked_about_are_seen(data: FitData) -> None:
    """Duplicates that were left out may neither be judged nor vouch for their copies."""
    rows = np.arange(0, 300, 2)
    seen: list[dict[str, set[int]]] = []
    with_rows = FitData.with_rows

    def watched(self: FitData, **parts: torch.Tensor) -> FitData:
        seen.append({name: set(each.tolist()) for name, each in parts.items()})
        return with_rows(self, **parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FitData, "with_rows", watched)
        found = label_quality(data, rows, config=QUICK)
    assert found.rows.tolist() == rows.tolist()
    assert len(seen) == NUM_FOLDS
    for parts in seen:
        assert parts["train"] | parts["val"] | parts["test"] == set(rows.tolist())
        assert not parts["test"] & (parts["train"] | parts["val"])
        assert not parts["train"] & parts["val"]
    assert sorted(row for parts in seen for row in parts["test"]) == rows.tolist()


def test_clean_reports_them_and_leaves_them_in(
    workspace: LocalStorage, plan: Plan, data: FitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label is corrected by a person; the table says which to look at."""
    monkeypatch.setattr(
        module, "FitConfig", lambda approach: QUICK
    )  # eight small epochs instead of twelve large ones
    found = clean(workspace, plan, CleanConfig(check_labels=True), device="cpu")
    assert found.table["keep"].to_pylist() == [True] * plan.num_items
    qualities = pq.read_table(workspace.root / "report" / "labels.parquet")
    assert qualities.schema.equals(LABEL_QUALITY)
    assert (np.diff(qualities["quality"].to_numpy()) >= 0).all()
    suspicious = set(qualities.filter(qualities["is_suspicious"])["row"].to_pylist())
    reasons = found.table["reason"].to_pylist()
    assert suspicious == {row for row, reason in enumerate(reasons) if reason == LABEL}
    assert "networks do not believe" in workspace.read("report/clean.html").decode()


def test_too_few_items_are_refused(
    workspace: LocalStorage, plan: Plan, data: FitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five networks need something to train on."""
    everything = CleanConfig(check_labels=True, min_image_title_cosine=0.5)
    monkeypatch.setattr(clean_module, "mismatches", lambda *_: np.arange(300) >= 6)
    with pytest.raises(CleanError, match="6 items stay: too few"):
        clean(workspace, plan, everything, device="cpu")


def test_the_table_of_an_earlier_call_goes(workspace: LocalStorage, plan: Plan) -> None:
    """It would tell of labels that this call did not look at."""
    workspace.write("report/labels.parquet", b"old")
    clean(workspace, plan, CleanConfig(), device="cpu")
    assert workspace.size("report/labels.parquet") is None


def test_without_a_label_graph_it_says_what_to_run(workspace: LocalStorage, plan: Plan) -> None:
    """The networks are fit's own, which needs the graph."""
    with pytest.raises(NeighborsError, match="no label graph"):
        clean(workspace, plan, CleanConfig(check_labels=True), device="cpu")
