"""Real photos: the Grocery Store Dataset, where it lies beside the checkout."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import cli

DATA = Path(__file__).parents[3] / "shared" / "data" / "grocery"


@pytest.mark.skipif(
    not DATA.is_dir(), reason="the Grocery Store Dataset is not beside this checkout"
)
@pytest.mark.timeout(300)
def test_natural_photos_embed_without_a_lost_row(tmp_path: Path) -> None:
    """Pictures nobody drew for us, in CSV form, with the data's own split."""
    workspace = ["--workspace", str(tmp_path), "--device", "cpu"]
    plan = ["plan", "--items", str(DATA / "items.csv"), "--labels", str(DATA / "labels.csv")]
    calls = [
        [*plan, "--model", "shelfwise-tiny", "--limit", "400", "--shard-rows", "256"],
        ["embed", "--all"],
    ]
    for call in calls:
        if "plan" in call:
            call += ["--chunk-rows", "128"]
        result = CliRunner().invoke(cli.main, [*call, *workspace])
        assert result.exit_code == 0, result.output
    rows = [pq.read_table(path) for path in sorted((tmp_path / "cache/rows").glob("*.parquet"))]
    assert [len(table) for table in rows] == [256, 144]
    for table in rows:
        assert table["image_ok"].to_pylist() == [True] * len(table)
        assert table["error"].null_count == len(table)
