"""Status: what an operator sees of a workspace."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from cache.lease import Lease
from cache.storage import LocalStorage
from pipeline.neighbors import write_neighbors
from pipeline.status import array_blocks, index_string, read_status
from schemas.plan import Plan
from tests.fakes import (
    chunk_path,
    commit_path,
    fake_embeddings,
    fake_plan,
    fake_workspace,
    rows_path,
    write_shard,
)


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    found = fake_workspace(workspace)
    write_neighbors(workspace, found, k=3)
    return found


def test_status_tells_done_missing_and_broken(workspace: LocalStorage, plan: Plan) -> None:
    """What an operator looks at before starting a job array again."""
    commit_path(workspace, 1).unlink()
    rows_path(workspace, 1).unlink()
    chunk_path(workspace, "title", 4).unlink()
    found = read_status(workspace, plan)
    assert [shard.state for shard in found.shards] == ["done", "missing", "broken"]
    assert "cache/title.zarr/c/4/0 (rows 256 to 299) is missing" in found.shards[2].reason
    assert (found.labels, found.graph) == ("done", "done")
    text = found.table().markdown()
    assert "1 broken, 1 done, 1 missing" in text
    assert json.dumps(found.as_dict())
    assert found.missing() == [1, 2]


def test_status_of_a_fresh_plan_says_what_is_missing(workspace: LocalStorage) -> None:
    """And raises nothing."""
    found = read_status(workspace, fake_plan(workspace, num_items=300))
    assert {shard.state for shard in found.shards} == {"missing"}
    assert "missing" in found.labels
    assert found.runs == ()


def test_shards_are_written_as_a_job_array_takes_them() -> None:
    """`sbatch --array=$(python cli.py status --missing)`."""
    assert index_string([0, 1, 2, 3, 7, 9, 10]) == "0-3,7,9-10"
    assert index_string([]) == ""
    assert index_string([5]) == "5"


def test_shards_beyond_what_an_array_allows_come_in_several() -> None:
    """Slurm allows indices below MaxArraySize, 1001 unless its administrator says more."""
    shards = [0, 3, 5, 6, 11, 1000, 12345]
    blocks = array_blocks(shards, 6)
    assert all(0 <= index < 6 for _, indices in blocks for index in indices)
    found = [offset + index for offset, indices in blocks for index in indices]
    assert found == shards
    assert len(blocks) == 4
    assert array_blocks([], 6) == []


def test_missing_shards_are_printed_for_arrays_of_a_size(workspace: LocalStorage) -> None:
    """As clusters/slurm/submit.sh reads them, a line an array."""
    fake_plan(workspace, num_items=128 * 9)
    call = ["status", "--missing", "--array-size", "6", "--workspace", str(workspace.root)]
    assert CliRunner().invoke(cli.main, call).stdout == "0 0-5\n6 0-2\n"
    refused = CliRunner().invoke(cli.main, [call[0], *call[2:]])
    assert refused.exit_code == 2


def test_status_counts_bad_rows_by_reason_and_tells_the_time_left(workspace: LocalStorage) -> None:
    """The two questions of whoever watches a long run."""
    plan = fake_plan(workspace, num_items=300)
    embeddings = fake_embeddings(plan)
    embeddings["image"][[3, 130]] = np.nan
    for shard in (0, 1):
        write_shard(workspace, plan, shard, embeddings)
    found = read_status(workspace, plan)
    assert found.bad_rows() == {"image: absent": 2}
    rate = found.items_per_second()
    assert rate is not None
    assert found.seconds_left() == pytest.approx(44 / rate)
    with Lease(workspace, 2):
        found = read_status(workspace, plan)
        assert found.shards[2].state == "running"
        assert found.missing() == []
        assert str(os.getpid()) in found.as_dict()["shards"][2]["holder"]
    text = found.table().markdown()
    assert "2 image: absent" in text
    assert "running for" in text
