"""What clean finds in a catalog of which it is known what is wrong, and what fit makes of it."""

import functools
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.layout import parquet_bytes, parquet_table
from cache.reader import Cache, read_all_items, read_plan
from cache.storage import LocalStorage
from pipeline import clean as module
from pipeline.catalog_changes import delete_items
from pipeline.clean import Cleaning, clean, mismatches, normalized
from pipeline.clean_table import CLEAN_TABLE, write_clean
from pipeline.compare import compare
from pipeline.embed import embed
from pipeline.encoder import load_encoder
from pipeline.evaluate import evaluate
from pipeline.fit import fit
from pipeline.neighbors import write_neighbors
from pipeline.plan import make_plan
from pipeline.tensors import FitData
from schemas.clean import EXACT, MISMATCH, NEAR, CleanConfig
from schemas.errors import CleanError, ConfigError, FitError, WorkspaceError
from schemas.plan import Plan
from schemas.run import EvaluateConfig, FitConfig
from schemas.tables import CLEAN
from tests.fakes import CPU, fake_workspace

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from planted_catalog import COPIES, make_planted_catalog

QUICK = {"epochs": 1, "batch_size": 32, "hidden_dim": 16}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStorage, Plan, pa.Table]:
    """A workspace up to the cache, and what was planted."""
    folder = tmp_path_factory.mktemp("planted")
    make_planted_catalog(folder, num_items=1200, share=0.04)
    workspace = LocalStorage(folder / "workspace")
    make_plan(
        workspace,
        items=folder / "items.parquet",
        labels=folder / "labels.csv",
        model="shelfwise-tiny",
        pretrained="",
    )
    plan = read_plan(workspace)
    # What is near depends on the third digit, which a machine with bfloat16 rounds away.
    get_encoder = functools.partial(load_encoder, plan.encoder, "cpu", "float32")
    embed(workspace, plan, [0], get_encoder, with_labels=False)
    return workspace, plan, pq.read_table(folder / "truth.parquet")


@pytest.fixture(scope="module")
def found(planted: tuple[LocalStorage, Plan, pa.Table]) -> Cleaning:
    return clean(*planted[:2], CleanConfig())


def planted_rows(
    table: pa.Table, truth: pa.Table, kinds: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of planted items and of those they were made from."""
    at = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
    chosen = [each for each in truth.to_pylist() if each["kind"] in kinds]
    ends = [[at[each[name]] for each in chosen] for name in ("item_id", "other")]
    return np.array(ends[0]), np.array(ends[1])


def test_exact_duplicates_are_found_without_error(
    planted: tuple[LocalStorage, Plan, pa.Table], found: Cleaning
) -> None:
    """Other case and spaces in the title included; nothing else is called exact."""
    table = found.table
    copy, original = planted_rows(table, planted[2], ("exact",))
    group = table["group"].to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(group[copy], group[original])
    keep, reason = (np.array(table[name].to_pylist()) for name in ("keep", "reason"))
    assert (~keep[copy] | ~keep[original]).all()
    gone = np.where(keep[copy], original, copy)
    assert set(reason[gone]) <= {EXACT, MISMATCH}
    assert set(np.flatnonzero(reason == EXACT)) <= {*copy, *original}


def test_near_duplicates_are_found(
    planted: tuple[LocalStorage, Plan, pa.Table], found: Cleaning
) -> None:
    """Crops, compression, colors, titles; docs/clean.md has the figures of a larger catalog."""
    table = found.table
    copy, original = planted_rows(table, planted[2], COPIES[1:])
    group = table["group"].to_pylist()
    num_found = sum(
        group[one] is not None and group[one] == group[other]
        for one, other in zip(copy, original, strict=True)
    )
    assert num_found >= 0.95 * len(copy)
    gone = [row for row, reason in enumerate(table["reason"].to_pylist()) if reason == NEAR]
    assert len({*gone} & {*copy, *original}) >= 0.9 * len(gone)


def test_a_group_keeps_one_item_and_straddles_no_split(found: Cleaning) -> None:
    """A copy of a test item in train would be measured as knowledge."""
    table = found.table.filter(pa.compute.is_valid(found.table["group"]))
    kept = table.filter(table["keep"])["group"].to_pylist()
    without_mismatch = [
        each
        for each in set(table["group"].to_pylist())
        if MISMATCH
        not in table.filter(pa.compute.equal(table["group"], each))["reason"].to_pylist()
    ]
    assert len(kept) == len(set(kept))
    assert set(without_mismatch) <= set(kept)


def test_the_table_has_every_item_in_plan_order(
    planted: tuple[LocalStorage, Plan, pa.Table], found: Cleaning
) -> None:
    """Readers take its rows for the plan's; what goes has a reason and what stays has none."""
    workspace, plan, _ = planted
    table = parquet_table(workspace.read(CLEAN_TABLE))
    assert table.schema.equals(CLEAN)
    assert table["row"].to_pylist() == list(range(plan.num_items))
    for keep, reason in zip(table["keep"].to_pylist(), table["reason"].to_pylist(), strict=True):
        assert keep == (reason is None)
    assert found.table["item_id"].to_pylist() == table["item_id"].to_pylist()


def test_the_cache_is_left_alone_and_a_second_run_says_the_same(
    planted: tuple[LocalStorage, Plan, pa.Table], found: Cleaning
) -> None:
    """It reads the cache; same catalog, same bytes."""
    workspace, plan, _ = planted
    before, table = Cache(workspace, plan).sha256(), workspace.read(CLEAN_TABLE)
    clean(workspace, plan, CleanConfig())
    assert Cache(workspace, plan).sha256() == before
    assert workspace.read(CLEAN_TABLE) == table


def test_the_report_shows_pictures_and_says_what_is_wrong(
    planted: tuple[LocalStorage, Plan, pa.Table], found: Cleaning
) -> None:
    """One file, nothing loaded from elsewhere, titles escaped."""
    page = planted[0].read("report/clean.html").decode()
    assert page.count("data:image/jpeg;base64,") > 50
    for words in ("Near duplicates", "Exact duplicates", "do not match", "left out", "<table>"):
        assert words in page
    assert "http" not in page.replace("http-equiv", "")
    assert found.tables[0].rows[0][0] == EXACT
    assert found.files[1].endswith("clean.html")


def test_without_the_catalog_titles_are_compared_as_they_were(
    planted: tuple[LocalStorage, Plan, pa.Table], caplog: pytest.LogCaptureFixture
) -> None:
    """The pictures of a cache may be far away; then only equal titles are the same title."""
    workspace, plan, truth = planted
    away = replace(plan.items.files[0], path="/nowhere/items.parquet")
    plan = replace(plan, items=replace(plan.items, files=(away,)))
    with caplog.at_level(logging.WARNING):
        found = clean(workspace, plan, CleanConfig())
    assert "compared as they were" in caplog.text
    copy, original = planted_rows(found.table, truth, ("exact",))
    group = found.table["group"].to_numpy(zero_copy_only=False)
    # What is no longer exact is near: the encoder does not see case.
    np.testing.assert_array_equal(group[copy], group[original])
    page = workspace.read("report/clean.html").decode()
    assert "data:image" not in page
    assert page.count("items file is gone: items.parquet") > 50
    clean(workspace, replace(plan, items=planted[1].items), CleanConfig())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Red  Mug ", "red mug"),
        ("\uff2d\uff35\uff27", "mug"),
        ("Stra\u00dfe", "STRASSE"),
        ("a\tb", "a b"),
    ],
)
def test_titles_are_normalized(one: str, other: str) -> None:
    """What feeds write in different ways, and no more."""
    assert normalized(one) == normalized(other)
    assert normalized("red mug") != normalized("mug red")


def naive_mismatches(cosine: list[float], labels: list[int], quantile: float) -> list[bool]:
    """The definition, item by item."""
    known = [i for i, each in enumerate(cosine) if not np.isnan(each)]
    if not known:
        return [False] * len(cosine)
    of = {y: [cosine[i] for i in known if labels[i] == y] for y in labels}
    off = {i: cosine[i] - np.median(of[labels[i]]) for i in known}
    typical = np.median([abs(each) for each in off.values()])
    score = {}
    for i in known:
        n = len(of[labels[i]])
        mad = np.median([abs(off[j]) for j in known if labels[j] == labels[i]])
        score[i] = off[i] / max((n * mad + 20 * typical) / (n + 20), 1e-12)
    num = int(quantile * len(known) + 1e-9)
    chosen = sorted(known, key=lambda i: (score[i], i))[:num]
    return [i in chosen for i in range(len(cosine))]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.just(float("nan")), st.integers(-64, 64).map(lambda i: i / 64)),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([0.0, 0.07, 0.2, 0.5]),
)
def test_mismatches_are_low_for_their_category(
    items: list[tuple[float, int]], quantile: float
) -> None:
    """Cosines of equal meaning differ by category."""
    cosine, labels = (list(column) for column in zip(*items, strict=True))
    found = mismatches(np.array(cosine), np.array(labels), CleanConfig(mismatch_quantile=quantile))
    assert found.tolist() == naive_mismatches(cosine, labels, quantile)


def test_one_threshold_takes_the_place_of_the_quantile() -> None:
    """For who knows the encoder; an item without a picture is not judged."""
    config = CleanConfig(min_image_title_cosine=0.2)
    cosine = np.array([0.1, 0.2, np.nan, 0.3])
    assert mismatches(cosine, np.zeros(4, np.int64), config).tolist() == [True, False, False, False]


def leave_out(workspace: LocalStorage, plan: Plan, rows: list[int]) -> None:
    """Write clean.parquet as if clean had found these rows."""
    keep = np.ones(plan.num_items, bool)
    keep[rows] = False
    columns = {
        "row": np.arange(plan.num_items),
        "item_id": [f"item-{row:06d}" for row in range(plan.num_items)],
        "keep": keep,
        "reason": pa.array([None if each else MISMATCH for each in keep], pa.string()),
        "group": pa.nulls(plan.num_items, pa.int64()),
        "score": pa.nulls(plan.num_items, pa.float32()),
    }
    made_from = {
        "cache_sha256": Cache(workspace, plan).sha256(),
        "items_sha256": plan.items_sha256(),
    }
    write_clean(workspace, pa.table(columns), CleanConfig(), made_from)


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    return plan


def test_fit_leaves_out_what_clean_says(workspace: LocalStorage, plan: Plan) -> None:
    """In every split; the run's config says of which table it is."""
    whole = FitData(workspace, plan, torch.device("cpu"))
    gone = [int(rows[0]) for rows in (whole.train, whole.val, whole.test)]
    leave_out(workspace, plan, gone)
    data = FitData(workspace, plan, torch.device("cpu"))
    for name in ("train", "val", "test"):
        left = set(getattr(whole, name).tolist()) - set(getattr(data, name).tolist())
        assert left == set(gone) & set(getattr(whole, name).tolist())
    assert data.inputs.clean_sha256
    assert not whole.inputs.clean_sha256
    every = FitData(workspace, plan, torch.device("cpu"), clean=False)
    assert every.train.tolist() == whole.train.tolist()
    assert every.inputs == whole.inputs


def test_a_run_is_made_again_when_clean_found_something_else(
    workspace: LocalStorage, plan: Plan
) -> None:
    """And evaluate refuses the old one, naming what changed; --no-clean runs live beside."""
    config = FitConfig(approach="1", **QUICK)
    raw = fit(workspace, plan, replace(config, clean=False), runtime=CPU)
    first = fit(workspace, plan, config, runtime=CPU)
    assert first.name != raw.name
    row = int(FitData(workspace, plan, torch.device("cpu")).test[0])
    leave_out(workspace, plan, [row])
    with pytest.raises(FitError, match="clean changed"):
        evaluate(workspace, plan, EvaluateConfig(runs=(first.name,)), device="cpu")
    again = fit(workspace, plan, config, runtime=CPU)
    assert again.name == first.name
    assert not again.is_reused
    assert again.metrics.num_items == first.metrics.num_items - 1
    kept = fit(workspace, plan, replace(config, clean=False), runtime=CPU)
    assert kept.is_reused
    for name, num_items in ((raw.name, 60), (again.name, 59)):
        found = evaluate(workspace, plan, EvaluateConfig(runs=(name,)), device="cpu")
        assert found.result.metrics.num_items == num_items
    compared = compare(workspace, plan, approaches=["2"], num_seeds=1, config=config, runtime=CPU)
    assert compared.record["num_test"] == 59


def test_a_stale_or_damaged_table_is_refused(workspace: LocalStorage, plan: Plan) -> None:
    """Its rows would be other items; the error names both ways out."""
    leave_out(workspace, plan, [3])
    table = workspace.read(CLEAN_TABLE)
    stale = parquet_table(table)
    metadata = {b"shelfwise": stale.schema.metadata[b"shelfwise"].replace(b'_sha256": "', b'": "')}
    cases = {
        "stale: cache_sha256": parquet_bytes(stale.replace_schema_metadata(metadata)),
        "cannot be read": table[:100],
        "do not say what it was made from": parquet_bytes(stale.replace_schema_metadata(None)),
        "not those of the plan's 300 rows": parquet_bytes(stale.slice(0, 200)),
        "rows, in order": parquet_bytes(stale.take(list(reversed(range(300))))),
    }
    for what, data in cases.items():
        workspace.write(CLEAN_TABLE, data)
        with pytest.raises(CleanError, match=what) as caught:
            FitData(workspace, plan, torch.device("cpu"))
        assert "--no-clean" in caught.value.fix
        assert "cli.py clean" in caught.value.fix
        FitData(workspace, plan, torch.device("cpu"), clean=False)


def test_a_split_that_clean_emptied_is_not_the_catalogs_fault(
    workspace: LocalStorage, plan: Plan
) -> None:
    """The way out is --no-clean, not a larger catalog."""
    leave_out(workspace, plan, FitData(workspace, plan, torch.device("cpu")).val.tolist())
    with pytest.raises(FitError, match="no val items, or clean left") as caught:
        FitData(workspace, plan, torch.device("cpu"))
    assert "--no-clean" in caught.value.fix


def test_a_picture_or_title_of_many_items_makes_no_near_duplicates(
    planted: tuple[LocalStorage, Plan, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A "no picture yet" would join products that have nothing else in common."""
    workspace, plan, truth = planted
    monkeypatch.setattr(module, "_MOST_SHARING", 1)
    found = clean(workspace, plan, CleanConfig())
    group = found.table["group"].to_pylist()

    def num_joined(kind: str) -> tuple[int, int]:
        copy, original = planted_rows(found.table, truth, (kind,))
        pairs = list(zip(copy, original, strict=True))
        joined = [group[a] is not None and group[a] == group[b] for a, b in pairs]
        return sum(joined), len(joined)

    # Pictures of title edits are shared, and titles of crops; some differ too little to tell.
    for kind in ("title edit", "crop"):
        joined, num = num_joined(kind)
        assert joined < 0.3 * num
    exact, of = planted_rows(found.table, truth, ("exact",))
    assert [group[row] for row in exact] == [group[row] for row in of]


def test_a_retired_item_does_not_count_and_does_not_crash(
    planted: tuple[LocalStorage, Plan, pa.Table], tmp_path: Path
) -> None:
    """Whichever it is: also the one whose picture nobody else has."""
    workspace = LocalStorage(tmp_path / "changed")
    shutil.copytree(planted[0].root, workspace.root)
    (tmp_path / "gone.txt").write_text(read_all_items(*planted[:2])["item_id"][-1].as_py())
    delete_items(workspace, tmp_path / "gone.txt")
    found = clean(workspace, read_plan(workspace), CleanConfig())
    assert not found.table["keep"][-1].as_py()
    assert found.table["reason"][-1].as_py() is None


def test_a_failing_report_leaves_fit_as_it_was(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody has seen a report of may not be left out."""
    (workspace.root / "report").write_text("in the way")
    with pytest.raises(WorkspaceError):
        clean(workspace, plan, CleanConfig())
    assert workspace.size(CLEAN_TABLE) is None


@pytest.mark.parametrize(
    "options",
    [
        {"min_cosine": 0.0},
        {"min_cosine": float("nan")},
        {"mismatch_quantile": 1.0},
        {"min_image_title_cosine": float("inf")},
    ],
)
def test_thresholds_out_of_range_are_refused(options: dict[str, float]) -> None:
    """With the name of the option and what it may be."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        CleanConfig(**options)


def test_items_without_picture_or_title_are_nobodys_duplicates(
    workspace: LocalStorage, plan: Plan
) -> None:
    """The fake cache has no hashes and no cosines; nothing can be said but by embeddings."""
    found = clean(workspace, plan, CleanConfig())
    assert found.table["keep"].to_pylist() == [True] * plan.num_items
    assert found.recall is None
    assert FitData(workspace, plan, torch.device("cpu")).inputs.clean_sha256
