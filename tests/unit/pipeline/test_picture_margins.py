"""Pictures that look like another category's come first, as a slow comparison of all pairs says."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.storage import LocalStorage
from pipeline import picture_margins as module
from pipeline.clean import clean
from pipeline.picture_margins import picture_margins
from pipeline.whitening import Whitening
from schemas.clean import CleanConfig
from schemas.errors import CleanError
from schemas.tables import PICTURE_MARGINS
from tests.fakes import fake_embeddings, fake_plan, fake_workspace, write_shard


def reference(
    pictures: np.ndarray, labels: np.ndarray, num_nearest: int = 64
) -> tuple[list[float], list[int]]:
    """Compare all pairs, one item at a time."""
    whitened = Whitening(pictures)(pictures)
    margins, nearest = [], []
    for item in range(len(labels)):
        cosine = whitened @ whitened[item]
        others = [each for each in range(len(labels)) if each != item]
        own = sorted(cosine[each] for each in others if labels[each] == labels[item])[-3:]
        ranked = sorted(range(len(labels)), key=lambda each: -cosine[each])[:num_nearest]
        foreign = [each for each in ranked if labels[each] != labels[item]]
        best = [cosine[each] for each in foreign[:3]]
        best += [cosine[ranked[-1]]] * (min(3, len(ranked)) - len(best))
        margins.append(np.mean(own) - np.mean(best) if own else np.nan)
        nearest.append(foreign[0] if foreign else -1)
    return margins, nearest


def pictures_of(labels: np.ndarray, seed: int, dim: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((labels.max() + 1, dim))
    found = centers[labels] + 0.6 * rng.standard_normal((len(labels), dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(num_items=st.integers(4, 150), num_labels=st.integers(1, 9), seed=st.integers(0, 99))
def test_margins_are_those_of_a_comparison_of_all_pairs(
    num_items: int, num_labels: int, seed: int
) -> None:
    """Also of categories of one, of one category for all, and beyond the 64 nearest."""
    labels = np.random.default_rng(seed).integers(0, num_labels, num_items)
    pictures = pictures_of(labels, seed)
    rows = np.arange(num_items) * 2 + 1
    found = picture_margins(lambda wanted: pictures[wanted // 2], rows, labels)
    margins, nearest = reference(pictures, labels)
    np.testing.assert_allclose(found.margin, margins, atol=1e-4)
    for place, other in enumerate(nearest):
        assert (found.nearest[place] < 0) == (other < 0)
        if other >= 0 and found.nearest[place] != rows[other]:  # a tie within rounding
            whitened = Whitening(pictures)(pictures)
            cosines = whitened[[other, found.nearest[place] // 2]] @ whitened[place]
            assert abs(cosines[0] - cosines[1]) < 1e-5
    ordered = found.margin[found.order()]
    assert (np.diff(ordered) >= 0).all()
    assert len(ordered) == np.isfinite(margins).sum()


@pytest.mark.parametrize("in_cells", [False, True])
def test_swapped_pictures_come_first(in_cells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In cells, as millions of items are searched, nearly as well."""
    if in_cells:
        monkeypatch.setattr(module, "MAX_EXACT", 100)
    labels = np.arange(3000) % 20
    pictures = pictures_of(labels, 1, dim=32)
    swapped = np.arange(0, 3000, 100)
    pictures[swapped] = pictures[(swapped + 7) % 3000]
    found = picture_margins(lambda wanted: pictures[wanted], np.arange(3000), labels)
    worst = found.rows[found.order()[: len(swapped)]]
    assert len(set(worst) & set(swapped)) >= 0.9 * len(swapped)
    like = labels[found.nearest[swapped]]
    assert (like == labels[(swapped + 7) % 3000]).mean() >= 0.9


def test_clean_reports_them_and_leaves_them_in(workspace: LocalStorage) -> None:
    """A person judges; the table has every picture that was compared."""
    plan = fake_plan(workspace, num_items=300, num_labels=6)
    embeddings = fake_embeddings(plan)
    embeddings["image"][[5, 6]] = embeddings["image"][[6, 5]]
    embeddings["image"][7] = np.nan
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    config = CleanConfig(check_pictures=True, mismatch_quantile=0.0)
    found = clean(workspace, plan, config)
    assert found.table["keep"].to_pylist() == [True] * 300
    table = pq.read_table(workspace.root / "report" / "pictures.parquet")
    assert table.schema.equals(PICTURE_MARGINS)
    assert set(table["row"].to_pylist()[:2]) == {5, 6}
    assert len(table) == 299
    assert table["item_id"][0].as_py() == f"item-{table['row'][0].as_py():06d}"
    assert "look like another category" in workspace.read("report/clean.html").decode()
    clean(workspace, plan, CleanConfig(mismatch_quantile=0.0))
    assert workspace.size("report/pictures.parquet") is None


def test_too_few_pictures_are_refused(workspace: LocalStorage) -> None:
    """A whitening of nine pictures tells nothing."""
    plan = fake_workspace(workspace, num_items=9, num_labels=3)
    with pytest.raises(CleanError, match="9 pictures: too few"):
        clean(workspace, plan, CleanConfig(check_pictures=True, mismatch_quantile=0.0))
