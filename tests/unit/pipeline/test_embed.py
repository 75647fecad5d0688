"""Embedding with a hash encoder: what goes where, and what a bad item costs."""

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cache.reader import Cache, read_label_emb, read_plan
from cache.storage import LocalStorage
from pipeline import embed_shard
from pipeline.embed import embed
from pipeline.embed_labels import embed_labels, mean_direction
from pipeline.plan import make_plan
from schemas.configs import to_json
from schemas.errors import ShardError, SourceChangedError, SpecMismatchError, TooManyBadRowsError
from schemas.plan import Plan
from tests.fakes import (
    HashEncoder,
    chunk_path,
    commit_path,
    fake_plan,
    fake_spec,
    labels_commit_path,
    picture_bytes,
    plan_path,
    rows_path,
    write_catalog,
)


def planned(workspace: LocalStorage, small_model: Path, **catalog: object) -> Plan:
    """Plan with the real small model, then put the fake encoder's spec in its place."""
    items, labels = write_catalog(workspace.root / "catalog", **catalog)
    make_plan(
        workspace,
        items=items,
        labels=labels,
        model=f"local-dir:{small_model}",
        pretrained="",
        shard_rows=16,
        chunk_rows=8,
        device="cpu",
    )
    spec = fake_spec()
    plan = replace(read_plan(workspace), encoder=spec, spec_id=spec.spec_id())
    plan_path(workspace).write_text(to_json(plan))
    return plan


def run(
    workspace: LocalStorage, plan: Plan, encoder: HashEncoder | None = None, **options: object
) -> None:
    given = {"with_labels": False, "batch_size": 5, "num_workers": 2} | options
    shards = given.pop("shards", range(plan.num_shards))
    embed(workspace, plan, shards, lambda: encoder or HashEncoder(), **given)


@pytest.mark.parametrize(("with_bytes", "together"), [(True, 256), (False, 3)])
def test_every_row_holds_its_own_items_embedding(
    workspace: LocalStorage,
    small_model: Path,
    with_bytes: bool,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the obvious loop: one item at a time, in catalog order."""
    monkeypatch.setattr(embed_shard, "_TITLES_TOGETHER", together)
    plan = planned(workspace, small_model, num_items=40, with_bytes=with_bytes)
    run(workspace, plan)
    encoder, cache = HashEncoder(), Cache(workspace, plan)
    image_emb, title_emb = cache.read("image"), cache.read("title")
    titles = [f"Acme thing {i % 4} no. {i}" for i in range(40)]
    np.testing.assert_array_equal(title_emb, encoder.encode_texts(titles).astype(np.float16))
    assert len(np.unique(image_emb, axis=0)) == 40
    rows = cache.read_rows()
    cosine = (image_emb.astype(np.float64) * title_emb).sum(1)
    np.testing.assert_allclose(rows["image_title_cosine"].to_numpy(), cosine, atol=2e-3)
    assert rows["item_id"].to_pylist() == [f"item-{i:04d}" for i in range(40)]
    assert rows["error"].null_count == 40


def test_bad_items_keep_their_rows_with_reasons(workspace: LocalStorage, small_model: Path) -> None:
    """And cost their neighbors in the batch nothing."""
    images: list[object] = [picture_bytes((i, 0, 0)) for i in range(40)]
    titles: list[object] = [f"t{i}" for i in range(40)]
    images[3], images[4], titles[4], titles[17] = b"<html>", None, None, None
    plan = planned(workspace, small_model, num_items=40, image=images, title=titles)
    run(workspace, plan, max_bad=0.2)
    cache = Cache(workspace, plan)
    rows = cache.read_rows().to_pylist()
    assert rows[3]["error"].startswith("image: not a picture")
    assert rows[4]["error"] == "image: null; title: null"
    assert rows[17]["error"] == "title: null"
    assert [i for i, row in enumerate(rows) if row["error"]] == [3, 4, 17]
    image_emb, title_emb = cache.read("image"), cache.read("title")
    assert np.flatnonzero(np.isnan(image_emb).all(1)).tolist() == [3, 4]
    assert np.flatnonzero(np.isnan(title_emb).all(1)).tolist() == [4, 17]
    assert not np.isnan(image_emb[5:]).any()
    assert (rows[3]["image_ok"], rows[3]["title_ok"]) == (False, True)
    assert rows[3]["image_title_cosine"] is None


def test_too_many_bad_rows_end_the_run_after_all_shards(
    workspace: LocalStorage, small_model: Path
) -> None:
    """A wrong image root must not pass as success, nor stop shards that could be done."""
    images = [b"broken"] * 8 + [picture_bytes()] * 32
    plan = planned(workspace, small_model, num_items=40, image=images)
    with pytest.raises(TooManyBadRowsError, match="8 of 16 rows") as caught:
        run(workspace, plan)
    assert "00000.parquet" in caught.value.where
    assert all(commit_path(workspace, shard).is_file() for shard in range(3))
    encoder = HashEncoder()
    run(workspace, plan, encoder, max_bad=0.5)
    assert encoder.num_images == 0


def test_a_shard_with_too_many_bad_rows_is_tried_again(
    workspace: LocalStorage, small_model: Path
) -> None:
    """A mount that was away is back: the same command mends the shard, and only that one."""
    plan = planned(workspace, small_model, num_items=40, with_bytes=False)
    pictures = {i: workspace.root / "catalog" / f"{i:04d}.png" for i in range(4)}
    saved = {i: path.read_bytes() for i, path in pictures.items()}
    for path in pictures.values():
        path.unlink()
    with pytest.raises(TooManyBadRowsError, match="4 of 16 rows"):
        run(workspace, plan)
    for i, path in pictures.items():
        path.write_bytes(saved[i])
    encoder = HashEncoder()
    run(workspace, plan, encoder)
    assert encoder.num_images == 16
    assert Cache(workspace, plan).read_rows()["error"].null_count == 40


def test_redo_embeds_what_is_done(workspace: LocalStorage, small_model: Path) -> None:
    """For the few pictures that came back without passing the limit."""
    plan = planned(workspace, small_model, num_items=40)
    run(workspace, plan)
    encoder = HashEncoder()
    run(workspace, plan, encoder, shards=[1], redo=True)
    assert encoder.num_images == 16


def test_a_thread_of_pixels_costs_its_own_row_only(
    workspace: LocalStorage, small_model: Path
) -> None:
    """Scaled to the encoder's height, a 1 x 20,000 picture is 4.5 million pixels wide."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 20_000)).save(buffer, "PNG")
    images = [picture_bytes((i, 9, 9)) for i in range(39)] + [buffer.getvalue()]
    plan = planned(workspace, small_model, num_items=40, image=images)
    run(workspace, plan, max_bad=0.2)
    errors = Cache(workspace, plan).read_rows()["error"].to_pylist()
    assert "too narrow: 1 x 20000 pixels" in errors[39]
    assert errors[:39] == [None] * 39


def test_missing_files_are_rows_with_reasons(workspace: LocalStorage, small_model: Path) -> None:
    """A picture deleted since the plan."""
    plan = planned(workspace, small_model, num_items=40, with_bytes=False)
    (workspace.root / "catalog" / "0002.png").unlink()
    (workspace.root / "catalog" / "0003.png").unlink()
    (workspace.root / "catalog" / "0003.png").mkdir()
    run(workspace, plan, max_bad=0.2)
    errors = Cache(workspace, plan).read_rows()["error"].to_pylist()
    assert errors[2] == "image: no such file"
    assert errors[3].startswith("image: cannot be read")


def test_a_second_run_does_nothing_and_loads_no_encoder(
    workspace: LocalStorage, small_model: Path
) -> None:
    """Job arrays run again as a whole; done shards must cost seconds."""
    plan = planned(workspace, small_model, num_items=40)
    run(workspace, plan, with_labels=True)
    before = {path: path.stat().st_mtime_ns for path in (workspace.root / "cache").rglob("*")}

    def refuse() -> HashEncoder:
        raise AssertionError("the encoder was loaded")

    embed(workspace, plan, range(3), refuse, with_labels=True)
    assert {
        path: path.stat().st_mtime_ns for path in (workspace.root / "cache").rglob("*")
    } == before


def test_only_what_does_not_verify_is_made_again(
    workspace: LocalStorage, small_model: Path
) -> None:
    """A flipped bit costs one chunk."""
    plan = planned(workspace, small_model, num_items=40)
    run(workspace, plan)
    original = chunk_path(workspace, "image", 2).read_bytes()
    chunk_path(workspace, "image", 2).write_bytes(original[:-1] + b"\x00")
    encoder = HashEncoder()
    run(workspace, plan, encoder)
    assert encoder.num_images == 8
    assert chunk_path(workspace, "image", 2).read_bytes() == original


def test_the_bytes_do_not_depend_on_batch_or_threads(
    workspace: LocalStorage, small_model: Path
) -> None:
    """Two GPU nodes with other settings make one cache."""
    plan = planned(workspace, small_model, num_items=40)
    run(workspace, plan)
    paths = [rows_path(workspace, 1), chunk_path(workspace, "image", 3)]
    before = [path.read_bytes() for path in paths]
    shutil.rmtree(workspace.root / "cache")
    run(workspace, plan, batch_size=64, num_workers=1)
    assert [path.read_bytes() for path in paths] == before


def test_shards_may_be_made_in_any_order_and_alone(
    workspace: LocalStorage, small_model: Path
) -> None:
    """The labels come with shard 0, or when asked for."""
    plan = planned(workspace, small_model, num_items=40)
    run(workspace, plan, shards=[2])
    assert not labels_commit_path(workspace).exists()
    run(workspace, plan, shards=[0])
    names = [f"Thing {i}" for i in range(4)]
    np.testing.assert_array_equal(
        read_label_emb(workspace, plan), HashEncoder().encode_texts(names)
    )
    assert pq.read_table(rows_path(workspace, 2))["row"].to_pylist() == list(range(32, 40))
    with pytest.raises(ShardError):
        run(workspace, plan, shards=[1, 3])
    assert not commit_path(workspace, 1).exists()


def test_a_changed_catalog_is_refused(workspace: LocalStorage, small_model: Path) -> None:
    """Its rows are no longer the plan's."""
    plan = planned(workspace, small_model, num_items=40)
    write_catalog(workspace.root / "catalog", num_items=41)
    with pytest.raises(SourceChangedError):
        run(workspace, plan)


def test_another_encoder_is_refused_and_the_cache_left_alone(
    workspace: LocalStorage, small_model: Path
) -> None:
    """Even with --force plans: the message names what differs."""
    plan = planned(workspace, small_model, num_items=40)
    run(workspace, plan)
    spec = fake_spec(weights="other")
    other = replace(plan, encoder=spec, spec_id=spec.spec_id())
    with pytest.raises(SpecMismatchError, match="weights_sha256"):
        run(workspace, other, HashEncoder(spec))
    assert Cache(workspace, plan).read("image").shape == (40, 16)


class LongEncoder(HashEncoder):
    """Gives every text another length, as an encoder that does not normalize would."""

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        return super().encode_texts(texts, batch_size) * [[1 + len(text)] for text in texts]


@pytest.mark.parametrize("encoder", [HashEncoder(), LongEncoder()])
def test_the_embedding_of_several_prompts_is_the_mean_of_their_directions(
    workspace: LocalStorage, encoder: HashEncoder
) -> None:
    """As CLIP's zero-shot classifiers do it; a long embedding counts no more than a short one."""
    plan = replace(fake_plan(workspace, num_items=10), label_text="a {name} | {name}s for sale")
    embed_labels(workspace, plan, encoder)
    found = read_label_emb(workspace, plan)
    for y in range(3):
        one, other = (
            vector / np.linalg.norm(vector)
            for vector in HashEncoder().encode_texts([f"a Thing {y}", f"Thing {y}s for sale"])
        )
        expected = (one + other) / np.linalg.norm(one + other)
        np.testing.assert_allclose(found[y], expected, atol=1e-6)


@pytest.mark.parametrize("label_text", ["name", "path", "a photo of a {name}"])
def test_one_prompt_is_kept_bit_by_bit(workspace: LocalStorage, label_text: str) -> None:
    """Caches that exist stay as they are: not even a last digit moves by normalizing again."""
    plan = replace(fake_plan(workspace, num_items=10), label_text=label_text)
    embed_labels(workspace, plan, LongEncoder())
    texts = [f"a photo of a Thing {y}" if "{" in label_text else f"Thing {y}" for y in range(3)]
    expected = LongEncoder().encode_texts(texts).astype(np.float32)
    np.testing.assert_array_equal(read_label_emb(workspace, plan), expected)


def test_prompts_that_cancel_out_leave_no_direction() -> None:
    """Zero, which `neighbors` refuses by name, and not NaN with a warning."""
    one = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    found = mean_direction([one, one * [[-1], [1]]])
    np.testing.assert_allclose(found, [[0, 0], [0.6, 0.8]], atol=1e-7)
