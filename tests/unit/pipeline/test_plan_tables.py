"""What shards are made from, as hashes."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.plan_tables import ShardHashes


def batch(**columns: pa.Array) -> pa.RecordBatch:
    found = {
        "item_id": pa.array(["a", "bb", "1", "d-4", "\u00e9"]),
        "title": pa.array([b"Boots", None, b"", b"\xff\xfe", b"T" * 1000], pa.large_binary()),
    }
    return pa.RecordBatch.from_pydict(found | columns)


PATHS = pa.array(["a.png", "1/b.png", None, "", "e.png"])


@pytest.mark.parametrize(
    ("items", "digests"),
    [
        (
            batch(image_path=PATHS),
            (
                "48d5ec31588bed507e157729e20c83c167a6bb5c93d1d4a2961f83e8dcd079bf",
                "cdf1d582d36e73f0fc251a2aa34514f851ac19f8b1aa74b9fce362ad3547db64",
            ),
        ),
        (
            batch(),
            (
                "695e6da39a753a72fe74ff665fc15c3b4a26aa6496c92e4f3bbc88056382220f",
                "d0334b99a135aed31509482429259428a5d6b37694c532245be0d78ef49f33e7",
            ),
        ),
    ],
)
def test_shards_keep_the_hashes_that_older_plans_have(
    items: pa.RecordBatch, digests: tuple[str, str]
) -> None:
    """Another hash would embed every planned catalog again."""
    hashes = ShardHashes(3)
    hashes.update(items, "f" * 64, np.array([0, 1, 2, 7, 100]))
    assert hashes.digests() == digests
    assert hashes.digests() == digests


def test_texts_do_not_run_into_each_other() -> None:
    """A letter that moves from the title to the path is another item."""
    found = set()
    for title, path in ((b"ab", "c"), (b"a", "bc"), (None, "abc"), (b"", "abc")):
        hashes = ShardHashes(1)
        columns = {"item_id": pa.array(["i"]), "image_path": pa.array([path])}
        columns["title"] = pa.array([title], pa.large_binary())
        hashes.update(pa.RecordBatch.from_pydict(columns), "", np.array([0]))
        found |= set(hashes.digests())
    assert len(found) == 4


def test_a_part_without_items_changes_no_hash() -> None:
    """`--append` leaves out what is as it was, which may be all of a part."""
    items, found = batch(image_path=PATHS), []
    for sizes in ([5], [0, 3, 0, 2, 0]):
        hashes, start = ShardHashes(3), 0
        for size in sizes:
            hashes.update(items.slice(start, size), "", np.arange(size))
            hashes.update(items.filter(pa.array([False] * 5)), "", np.arange(0))
            start += size
        found.append(hashes.digests())
    assert found[0] == found[1]
