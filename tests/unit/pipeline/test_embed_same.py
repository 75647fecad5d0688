"""Embeddings are those of a plain open_clip loop, however the work is cut, whatever is beside."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cache.layout import commit_name
from cache.reader import PLAN, Cache, read_plan
from cache.storage import LocalStorage
from pipeline.embed import embed, embed_on_devices
from pipeline.encoder import BUNDLED_MODEL, Encoder, load_encoder
from pipeline.plan import make_plan
from schemas.configs import to_json
from schemas.errors import DeviceError
from schemas.plan import Plan
from tests.corpus import picture_corpus, title_corpus
from tests.fakes import HashEncoder, embed_here, fake_spec, write_catalog

NUM_ITEMS = 48


def photo(seed: int, size: tuple[int, int]) -> bytes:
    """Return a JPEG with soft shapes: noise would be all detail, which no photograph is."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def catalog(folder: Path) -> tuple[Path, Path]:
    """Write a catalog with repeated pictures and titles, of several sizes and lengths."""
    sizes = [(80, 60), (200, 310), (640, 480)]
    pictures = [photo(i % 31, sizes[i % 31 % 3]) for i in range(NUM_ITEMS)]
    titles = [" ".join(["rain", "boots", "brown"][: 1 + i % 3]) + f" {i % 17}" for i in range(48)]
    return write_catalog(folder, num_items=NUM_ITEMS, image=pictures, title=titles)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    plan = planned(LocalStorage(tmp_path_factory.mktemp("encoder")))
    return load_encoder(plan.encoder, "cpu", "float32")


def planned(workspace: LocalStorage, **options: object) -> Plan:
    items, labels = catalog(workspace.root / "catalog")
    given = {"shard_rows": 32, "chunk_rows": 16, "device": "cpu", "pretrained": ""} | options
    return make_plan(workspace, items=items, labels=labels, model=BUNDLED_MODEL, **given).plan


def embedded(
    workspace: LocalStorage,
    encoder: Encoder,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    **plan_options: object,
) -> dict[str, np.ndarray]:
    plan = planned(workspace, **plan_options)
    embed(
        workspace,
        plan,
        range(plan.num_shards),
        lambda: encoder,
        with_labels=False,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    cache = Cache(workspace, plan)
    return {name: cache.read(name).astype(np.float32) for name in ("image", "title")}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> dict[str, np.ndarray]:
    return embedded(LocalStorage(tmp_path_factory.mktemp("reference")), encoder)


def lowest_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """After rounding to float16 no embedding has exactly unit length."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / lengths).min())


def test_embeddings_match_a_plain_open_clip_loop(
    workspace: LocalStorage, encoder: Encoder, reference: dict[str, np.ndarray]
) -> None:
    """Its own model, transform and tokenizer, one item at a time, at full decode and context."""
    spec = encoder.spec
    model = encoder._model
    transform = open_clip.transform.image_transform(
        spec.preprocess.size,
        is_train=False,
        mean=spec.preprocess.mean,
        std=spec.preprocess.std,
        interpolation=spec.preprocess.interpolation,
        resize_mode=spec.preprocess.resize_mode,
    )
    table = pq.read_table(catalog(workspace.root / "again")[0])
    with torch.inference_mode():
        for name, expected in reference.items():
            for row in range(NUM_ITEMS):
                if name == "image":
                    image = Image.open(io.BytesIO(table["image"][row].as_py())).convert("RGB")
                    found = model.encode_image(transform(image)[None], normalize=True)
                else:
                    tokens = encoder._tokenize([table["title"][row].as_py()])
                    found = model.encode_text(tokens, normalize=True)
                assert float((found[0].numpy() * expected[row]).sum()) > 0.999, (name, row)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1},
        {"batch_size": 48},
        {"num_workers": 2},
        {"shard_rows": 48, "chunk_rows": 48},
        {"shard_rows": 4, "chunk_rows": 4},
    ],
    ids=str,
)
def test_embeddings_do_not_depend_on_how_the_work_is_cut(
    workspace: LocalStorage,
    encoder: Encoder,
    reference: dict[str, np.ndarray],
    options: dict[str, int],
) -> None:
    """Nodes with other memory or more cores fill the same cache."""
    found = embedded(workspace, encoder, **options)
    for name, expected in reference.items():
        assert lowest_cosine(found[name], expected) >= 0.9999


def test_repeated_pictures_and_titles_are_encoded_once_and_put_in_every_row(
    workspace: LocalStorage,
) -> None:
    """Against the obvious loop over all rows; a shard has each content once, across its chunks."""
    pictures = [photo(i % 7, (40, 30)) for i in range(NUM_ITEMS)]
    titles = [f"boots {i % 5}" for i in range(NUM_ITEMS)]
    plan = planned(workspace, shard_rows=32, chunk_rows=8)
    write_catalog(workspace.root / "catalog", num_items=NUM_ITEMS, image=pictures, title=titles)
    plan = hash_plan(workspace, shard_rows=32, chunk_rows=8)
    encoder = HashEncoder(plan.encoder)
    embed(workspace, plan, [0, 1], lambda: encoder, with_labels=False, num_workers=0)
    assert (encoder.num_images, encoder.num_texts) == (7 + 7, 5 + 5 + 4)  # 4 labels
    cache = Cache(workspace, plan)
    image_emb, title_emb = cache.read("image"), cache.read("title")
    for row in range(NUM_ITEMS):
        np.testing.assert_array_equal(image_emb[row], image_emb[row % 7])
        np.testing.assert_array_equal(title_emb[row], title_emb[row % 5])
    assert len(np.unique(image_emb, axis=0)) == 7


def hash_plan(workspace: LocalStorage, **options: int) -> Plan:
    """Plan what lies in the catalog folder, for the hash encoder."""
    folder = workspace.root / "catalog"
    make_plan(
        workspace,
        items=folder / "items.parquet",
        labels=folder / "labels.csv",
        model=BUNDLED_MODEL,
        pretrained="",
        device="cpu",
        force=True,
        **options,
    )
    spec = fake_spec()
    plan = replace(read_plan(workspace), encoder=spec, spec_id=spec.spec_id())
    workspace.write(PLAN, to_json(plan).encode())
    return plan


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_catalog_of_everything_bad_is_embedded_to_its_end(
    workspace: LocalStorage, num_workers: int
) -> None:
    """Each row is read or has its reason; a good row is as if the bad ones were not there."""
    specimens, titles = picture_corpus(), title_corpus()
    num_items = len(specimens)
    given = [titles[i % len(titles)][1] for i in range(num_items)]
    is_title = [titles[i % len(titles)][2] for i in range(num_items)]
    columns = {"image": [each.data for each in specimens], "title": pa.array(given, pa.binary())}
    write_catalog(workspace.root / "catalog", num_items=num_items, **columns)
    plan = hash_plan(workspace, shard_rows=128, chunk_rows=64)
    shards = range(plan.num_shards)
    options = {"with_labels": False, "num_workers": num_workers, "max_bad": 1.0}
    embed(workspace, plan, shards, lambda: HashEncoder(), **options)
    cache = Cache(workspace, plan)
    rows, image_emb = cache.read_rows(), cache.read("image")
    for row, specimen in enumerate(specimens):
        assert rows["image_ok"][row].as_py() == specimen.is_readable, specimen.name
        assert np.isnan(image_emb[row]).any() != specimen.is_readable
        assert rows["title_ok"][row].as_py() == is_title[row]
        error = rows["error"][row].as_py() or ""
        assert ("image: " in error) != specimen.is_readable, specimen.name
        assert ("title: " in error) != is_title[row]
    good = [row for row, specimen in enumerate(specimens) if specimen.is_readable]
    place = LocalStorage(workspace.root / "good")
    columns = {"image": [specimens[row].data for row in good]}
    write_catalog(place.root / "catalog", num_items=len(good), **columns)
    plan = hash_plan(place, shard_rows=128, chunk_rows=64)
    embed(place, plan, range(plan.num_shards), lambda: HashEncoder(), **options)
    np.testing.assert_array_equal(Cache(place, plan).read("image"), image_emb[good])


def test_good_rows_equal_a_run_without_the_bad_ones(
    workspace: LocalStorage, encoder: Encoder, reference: dict[str, np.ndarray]
) -> None:
    """With the real encoder, whose batches the bad items would share."""
    bad = [each.data for each in picture_corpus() if not each.is_readable][:NUM_ITEMS]
    items, labels = catalog(workspace.root / "catalog")
    table = pq.read_table(items)
    both = [x for pair in zip(table["image"].to_pylist(), bad, strict=True) for x in pair]
    titles = [x for title in table["title"].to_pylist() for x in (title, "x " * 70)]
    write_catalog(workspace.root / "catalog", num_items=2 * NUM_ITEMS, image=both, title=titles)
    plan = make_plan(
        workspace,
        items=items,
        labels=labels,
        model=BUNDLED_MODEL,
        pretrained="",
        device="cpu",
        shard_rows=32,
        chunk_rows=16,
    ).plan
    embed(
        workspace,
        plan,
        range(plan.num_shards),
        lambda: encoder,
        with_labels=False,
        batch_size=8,
        num_workers=0,
        max_bad=1.0,
    )
    cache = Cache(workspace, plan)
    for name, expected in reference.items():
        assert lowest_cosine(cache.read(name)[::2].astype(np.float32), expected) >= 0.9999


def cache_bytes(workspace: LocalStorage) -> dict[str, bytes]:
    names = workspace.sizes("cache")
    return {name: workspace.read(name) for name in names if "/commits/" not in name}


@pytest.mark.parametrize("devices", [["cpu", "again"], ["cpu", "cpu", "cpu"]])
def test_several_processes_write_the_same_bytes_as_one(
    workspace: LocalStorage, devices: list[str]
) -> None:
    """One process a GPU, or several; whoever comes to a shard first makes it."""
    catalog(workspace.root / "catalog")
    plan = hash_plan(workspace, shard_rows=8, chunk_rows=4)
    embed_on_devices(workspace, range(plan.num_shards), devices, embed_here)
    assert all(workspace.size(commit_name(shard)) for shard in range(plan.num_shards))
    together = cache_bytes(workspace)
    for name in workspace.sizes("cache"):
        workspace.remove(name)
    embed(workspace, plan, range(6), HashEncoder, with_labels=False, num_workers=0)
    alone = cache_bytes(workspace)
    assert together == alone


def test_a_device_that_fails_is_named_and_the_others_finish(workspace: LocalStorage) -> None:
    """A broken GPU costs its own share, and says so."""
    catalog(workspace.root / "catalog")
    plan = hash_plan(workspace, shard_rows=8, chunk_rows=4)
    with pytest.raises(DeviceError, match=r"broken.* 3"):
        embed_on_devices(workspace, range(plan.num_shards), ["cpu", "broken"], embed_here)
    assert Cache(workspace, plan).read("image").shape == (NUM_ITEMS, 16)


def test_a_cache_of_any_shard_size_is_read_by_any_reader(
    workspace: LocalStorage, reference: dict[str, np.ndarray], encoder: Encoder
) -> None:
    """Rows, filters and conversions, against the whole matrix; zarr's reader is elsewhere."""
    embedded(workspace, encoder, shard_rows=12, chunk_rows=6)
    plan = read_plan(workspace)
    cache = Cache(workspace, plan)
    whole = cache.read("image")
    kept = np.arange(NUM_ITEMS) % 3 == 0
    np.testing.assert_array_equal(cache.read("image", rows=kept), whole[kept])
    found = cache.read("image", rows=kept, dtype=np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, whole[kept].astype(np.float32))
    out = np.empty((int(kept.sum()), whole.shape[1]), np.float64)
    assert cache.read("image", rows=kept, out=out) is out
    np.testing.assert_array_equal(out, whole[kept])
    rows = np.random.default_rng(0).integers(0, NUM_ITEMS, 100)
    np.testing.assert_array_equal(cache.read_random("image", rows), whole[rows])
    with pytest.raises(IndexError):
        cache.read_random("image", np.array([NUM_ITEMS]))
    assert cache.read_random("image", np.array([], int)).shape == (0, whole.shape[1])
