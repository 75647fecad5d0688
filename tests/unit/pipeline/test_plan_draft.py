"""Items tables made in a temporary folder, with bounded memory."""

import contextlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.items import find_items
from pipeline.labels import read_labels
from pipeline.plan_draft import drafted_items
from schemas.errors import CatalogError, WorkspaceError
from schemas.plan import ItemsSource
from tests.fakes import write_catalog

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of temporary files, a fresh one."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@contextlib.contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Have the kernel refuse to write more to a file, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def catalog(folder: Path, num_items: int = 40, **columns: object) -> tuple[ItemsSource, pa.Table]:
    items, labels = write_catalog(folder / "catalog", num_items=num_items, **columns)
    return find_items(items, None), read_labels(labels)


def test_nothing_stays_in_the_temporary_folder(tmp_path: Path, temporary: Path) -> None:
    """What a billion items leave there would fill the disk at the second plan."""
    with drafted_items(*catalog(tmp_path), shard_rows=16, seed=0) as draft:
        assert draft.folder.parent == temporary
        names = sorted(path.name for path in draft.folder.iterdir())
        assert names == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert not list(temporary.iterdir())
    ids = [f"item-{i % 39}" for i in range(40)]
    source, labels = catalog(tmp_path, item_id=ids)
    with pytest.raises(CatalogError), drafted_items(source, labels, shard_rows=16, seed=0):
        pass
    assert not list(temporary.iterdir())


def test_ids_that_repeat_in_other_shards_are_named_by_their_first_occurrence(
    tmp_path: Path,
) -> None:
    """Shards are looked at one by one, and a copy may stand in the last of them."""
    ids = [f"item-{i}" for i in range(36)] + ["item-20", "item-3", "item-8", "item-3"]
    source, labels = catalog(tmp_path, item_id=ids)
    with (
        pytest.raises(CatalogError) as caught,
        drafted_items(source, labels, shard_rows=7, seed=0),
    ):
        pass
    assert caught.value.what == ("3 item ids occur more than once: 'item-3', 'item-8', 'item-20'")


def test_a_split_column_that_holds_something_else_ends_early(tmp_path: Path) -> None:
    """Its names are as many as the items, and are counted in memory."""
    num_items, num_counted = 30_000, 12_000
    table = {name: [f"x-{i}" for i in range(num_items)] for name in ("item_id", "title", "split")}
    table |= {"label_id": ["L0"] * num_items, "image_path": table["title"]}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    labels = pa.table({"label_id": ["L0"], "name": ["Thing"]})
    with (
        pytest.raises(CatalogError, match=f"^{num_counted} unknown split names: 'x-0', 'x-1'"),
        drafted_items(
            find_items(tmp_path / "items.parquet", None), labels, shard_rows=4000, seed=0
        ),
    ):
        pass


def test_too_little_room_for_temporary_files_is_said_before_work_starts(
    tmp_path: Path, temporary: Path
) -> None:
    """Not after an hour, when the disk is full."""
    source, labels = catalog(tmp_path)
    many = ItemsSource(files=(replace(source.files[0], num_rows=10**15),))
    with (
        pytest.raises(WorkspaceError, match="MB of temporary files") as caught,
        drafted_items(many, labels, shard_rows=16, seed=0),
    ):
        pass
    assert caught.value.where == str(temporary)
    assert "TMPDIR" in caught.value.fix
    assert not list(temporary.iterdir())


def test_a_full_temporary_disk_is_one_clear_error(tmp_path: Path, temporary: Path) -> None:
    """It is seldom the disk that a user thinks of first."""
    rng = np.random.default_rng(0)
    ids = [rng.bytes(400).hex() for _ in range(60)]  # which no compression makes small
    table = {"item_id": ids, "title": ids, "label_id": ["L0"] * 60, "image_path": ids}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    source = find_items(tmp_path / "items.parquet", None)
    labels = pa.table({"label_id": ["L0"], "name": ["Thing"]})
    with (
        files_of_at_most(20_000),
        pytest.raises(WorkspaceError, match="File too large") as caught,
        drafted_items(source, labels, shard_rows=64, seed=0),
    ):
        pass
    assert caught.value.where.startswith(str(temporary))
    assert "TMPDIR" in caught.value.fix
    assert not list(temporary.iterdir())


def test_a_temporary_folder_that_is_none_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TMPDIR may name anything."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    source, labels = catalog(tmp_path)
    with (
        pytest.raises(WorkspaceError, match="No such file") as caught,
        drafted_items(source, labels, shard_rows=16, seed=0),
    ):
        pass
    assert "TMPDIR" in caught.value.fix


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_does_not_grow_with_the_catalog(tmp_path: Path) -> None:
    """All ids in memory at once cost 267 bytes an item, and a billion items a whole cluster."""
    peaks = [_peak_bytes(tmp_path, num_items) for num_items in (1_000_000, 4_000_000)]
    assert peaks[1] - peaks[0] < 50 * 3_000_000


def _peak_bytes(folder: Path, num_items: int) -> int:
    """Return what a process of its own holds at most while it drafts so many items."""
    path = folder / f"{num_items}.parquet"
    numbers = pa.array(np.arange(num_items)).cast(pa.string())
    table = {"item_id": numbers, "title": numbers, "image_path": numbers}
    labels = pa.array(["L0"]).take(pa.array(np.zeros(num_items, int)))
    pq.write_table(pa.table(table | {"label_id": labels}), path, row_group_size=100_000)
    code = (
        "import resource; import pyarrow as pa; from pipeline.items import find_items; "
        "from pipeline.plan_draft import drafted_items\n"
        f"source = find_items({str(path)!r}, None)\n"
        "labels = pa.table({'label_id': ['L0']})\n"
        "with drafted_items(source, labels, shard_rows=65536, seed=0): pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return int(done.stdout)
