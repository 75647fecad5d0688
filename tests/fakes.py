"""Small real stand-ins: an encoder made of hashes, plans without open_clip, tiny catalogs."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

from cache.layout import ITEM_DTYPE, items_path, labels_path, parquet_bytes
from cache.storage import atomic_write
from cache.writer import ShardWriter, write_labels
from schemas.configs import to_json
from schemas.plan import EncoderSpec, ItemsSource, Plan, Preprocess, plan_path
from schemas.tables import ITEMS, LABELS, ROWS

PREPROCESS = Preprocess(
    size=(8, 8),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    resize_mode="shortest",
    fill_color=0,
)


def fake_spec(embed_dim: int = 16, weights: str = "fake") -> EncoderSpec:
    """Return the spec of the HashEncoder."""
    return EncoderSpec(
        model="hash",
        pretrained=weights,
        weights_path="",
        weights_sha256=hashlib.sha256(weights.encode()).hexdigest(),
        architecture={"embed_dim": embed_dim},
        preprocess=PREPROCESS,
        tokenizer="none",
        embed_dim=embed_dim,
    )


class HashEncoder:
    """Embeds content as a unit vector seeded by its hash: equal content, equal embedding."""

    compute_dtype = "float32"

    def __init__(self, spec: EncoderSpec | None = None) -> None:
        self.spec = spec or fake_spec()
        self.num_images = self.num_texts = 0

    def preprocess(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize(self.spec.preprocess.size))

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        self.num_images += len(pixels)
        return np.stack([self._unit(picture.tobytes()) for picture in pixels])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.num_texts += len(texts)
        return np.stack([self._unit(text.encode()) for text in texts])

    def _unit(self, content: bytes) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
        vector = np.random.default_rng(seed).standard_normal(self.spec.embed_dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def picture_bytes(color: tuple[int, int, int] = (200, 30, 30), kind: str = "PNG") -> bytes:
    """Return a small picture as an encoded file."""
    buffer = io.BytesIO()
    Image.new("RGB", (24, 20), color).save(buffer, kind)
    return buffer.getvalue()


def write_catalog(
    folder: Path,
    *,
    num_items: int = 40,
    num_labels: int = 4,
    with_bytes: bool = True,
    **columns: list[object],
) -> tuple[Path, Path]:
    """Write items.parquet (and pictures, unless with_bytes) and labels.csv; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [
        picture_bytes((7 * i % 256, 40 * (i % num_labels) % 256, 90)) for i in range(num_items)
    ]
    table: dict[str, object] = {
        "item_id": [f"item-{i:04d}" for i in range(num_items)],
        "title": [f"Acme thing {i % num_labels} no. {i}" for i in range(num_items)],
        "label_id": [f"L{i % num_labels}" for i in range(num_items)],
    }
    if with_bytes:
        table["image"] = pictures
    else:
        for i, picture in enumerate(pictures):
            (folder / f"{i:04d}.png").write_bytes(picture)
        table["image_path"] = [f"{i:04d}.png" for i in range(num_items)]
    table |= columns
    pq.write_table(pa.table(table), folder / "items.parquet", row_group_size=16)
    names = [f"Thing {i}" for i in range(num_labels)]
    labels = {
        "label_id": [f"L{i}" for i in range(num_labels)],
        "name": names,
        "path": [f"Things > {name}" for name in names],
    }
    pa.csv.write_csv(pa.table(labels), folder / "labels.csv")
    return folder / "items.parquet", folder / "labels.csv"


def fake_plan(
    workspace: Path,
    *,
    num_items: int,
    num_labels: int = 3,
    embed_dim: int = 16,
    chunk_rows: int = 64,
    shard_rows: int = 128,
) -> Plan:
    """Write a plan with its items and labels tables, without a catalog behind it."""
    spec = fake_spec(embed_dim)
    num_shards = -(-num_items // shard_rows)
    plan = Plan(
        items=ItemsSource(files=(), root=str(workspace), has_image_bytes=True),
        labels_path="labels.csv",
        labels_sha256="0" * 64,
        label_text="name",
        num_items=num_items,
        num_labels=num_labels,
        limit=None,
        encoder=spec,
        spec_id=spec.spec_id(),
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        shards=tuple(hashlib.sha256(b"%d" % i).hexdigest() for i in range(num_shards)),
        items_tables=("",) * num_shards,
        labels_table="",
    )
    items_files = []
    for shard in range(num_shards):
        rows = np.arange(*plan.shard_range(shard))
        table = {
            "row": rows,
            "item_id": [f"item-{row:06d}" for row in rows],
            "source_file": np.zeros(len(rows), int),
            "source_row": rows,
            "label": rows % num_labels,
            "split": [
                ("train", "train", "train", "val", "test")[row // num_labels % 5] for row in rows
            ],
        }
        items_files.append(parquet_bytes(pa.table(table).cast(ITEMS)))
        atomic_write(items_path(workspace, shard), items_files[-1])
    names = [f"Thing {i}" for i in range(num_labels)]
    labels = {
        "label": range(num_labels),
        "label_id": names,
        "name": names,
        "path": names,
        "count": [0] * num_labels,
    }
    labels = {name: list(values) for name, values in labels.items()}
    labels_file = parquet_bytes(pa.table(labels).cast(LABELS))
    atomic_write(labels_path(workspace), labels_file)
    plan = replace(
        plan,
        items_tables=tuple(hashlib.sha256(file).hexdigest() for file in items_files),
        labels_table=hashlib.sha256(labels_file).hexdigest(),
    )
    atomic_write(plan_path(workspace), to_json(plan).encode())
    return plan


def fake_embeddings(plan: Plan, seed: int = 0) -> dict[str, np.ndarray]:
    """Return image and title embeddings for all rows that carry the row's label, plus noise."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((plan.num_labels, plan.encoder.embed_dim))
    labels = np.arange(plan.num_items) % plan.num_labels
    found = {}
    for name in ("image", "title"):
        matrix = centers[labels] + 0.7 * rng.standard_normal((plan.num_items, centers.shape[1]))
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        found[name] = matrix.astype(ITEM_DTYPE)
    return found


def write_shard(
    workspace: Path,
    plan: Plan,
    shard: int,
    embeddings: dict[str, np.ndarray],
    *,
    batch_size: int = 50,
) -> None:
    """Write and commit one shard; rows with NaN are marked as absent."""
    writer = ShardWriter(workspace, plan, shard)
    for start in range(writer.start, writer.stop, batch_size):
        part = slice(start, min(start + batch_size, writer.stop))
        writer.append(image=embeddings["image"][part], title=embeddings["title"][part])
    rows = slice(writer.start, writer.stop)
    ok = {name: ~np.isnan(embeddings[name][rows]).any(1) for name in ("image", "title")}
    num_rows = writer.stop - writer.start
    table = pa.table(
        {
            "row": np.arange(writer.start, writer.stop),
            "item_id": [f"item-{row:06d}" for row in range(writer.start, writer.stop)],
            "image_ok": ok["image"],
            "title_ok": ok["title"],
            "error": [None if a and b else "absent" for a, b in zip(*ok.values(), strict=True)],
            "image_sha256": pa.nulls(num_rows, pa.string()),
            "title_sha256": pa.nulls(num_rows, pa.string()),
            "image_title_cosine": pa.nulls(num_rows, pa.float32()),
        }
    )
    writer.commit(table.cast(ROWS), compute_dtype="float32", batch_size=batch_size, seconds=1.0)


def fake_workspace(workspace: Path, *, num_items: int = 300, num_labels: int = 6) -> Plan:
    """Write a whole workspace up to the label graph's inputs: plan, cache, label embeddings."""
    plan = fake_plan(workspace, num_items=num_items, num_labels=num_labels)
    embeddings = fake_embeddings(plan)
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    label_emb = np.random.default_rng(1).standard_normal((num_labels, plan.encoder.embed_dim))
    write_labels(workspace, plan, label_emb, compute_dtype="float32", seconds=0.0)
    return plan
