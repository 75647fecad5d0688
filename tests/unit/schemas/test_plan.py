"""The plan's arithmetic and its file."""

from dataclasses import replace

import pytest

from cache.reader import read_plan
from cache.storage import LocalStorage
from schemas.configs import to_json
from schemas.errors import ConfigError, PlanNotFoundError, ShardError
from schemas.plan import Preprocess
from tests.fakes import fake_plan, fake_spec, plan_path


def test_shards_cover_every_row_once(workspace: LocalStorage) -> None:
    """A gap would lose items, an overlap would let two writers share a chunk."""
    plan = fake_plan(workspace, num_items=300)
    ranges = [plan.shard_range(shard) for shard in range(plan.num_shards)]
    assert ranges == [(0, 128), (128, 256), (256, 300)]


@pytest.mark.parametrize("shard", [-1, 3, 1000])
def test_a_shard_outside_the_plan_is_refused(workspace: LocalStorage, shard: int) -> None:
    """A job array one too long must not write anything."""
    with pytest.raises(ShardError, match="shards 0 to 2") as caught:
        fake_plan(workspace, num_items=300).shard_range(shard)
    assert "status" in caught.value.fix


def test_a_shard_owns_whole_chunks(workspace: LocalStorage) -> None:
    """Two processes writing one chunk file would overwrite each other."""
    with pytest.raises(ConfigError, match="not a multiple"):
        fake_plan(workspace, num_items=10, chunk_rows=64, shard_rows=100)


def test_a_plan_survives_the_round_trip(workspace: LocalStorage) -> None:
    """GPU nodes read what the login node wrote."""
    plan = fake_plan(workspace, num_items=300)
    assert read_plan(workspace) == plan


def test_a_missing_plan_names_the_command(workspace: LocalStorage) -> None:
    """The first thing a newcomer meets."""
    with pytest.raises(PlanNotFoundError) as caught:
        read_plan(workspace)
    assert "cli.py plan" in caught.value.fix
    assert caught.value.where == str(plan_path(workspace))


def test_a_plan_with_an_unknown_key_is_refused(workspace: LocalStorage) -> None:
    """A plan of a later version may mean something else by the same fields."""
    text = to_json(fake_plan(workspace, num_items=10)).replace('"seed"', '"sed"')
    plan_path(workspace).write_text(text)
    with pytest.raises(ConfigError, match="seed"):
        read_plan(workspace)


def test_the_spec_id_follows_what_makes_an_embedding() -> None:
    """Weights and preprocessing are in it; where the file lies is not."""
    spec = fake_spec()
    assert replace(spec, weights_path="/elsewhere").spec_id() == spec.spec_id()
    other = Preprocess(**{**spec.preprocess.__dict__, "resize_mode": "squash"})
    changed = [
        replace(spec, weights_sha256="1" * 64),
        replace(spec, preprocess=other),
        replace(spec, decode="full"),
        replace(spec, tokenizer="another"),
        replace(spec, model="another"),
        replace(spec, is_normalized=False),
        replace(spec, architecture={"quick_gelu": True}),
    ]
    assert len({each.spec_id() for each in [spec, *changed]}) == len(changed) + 1
