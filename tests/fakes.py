"""Small real stand-ins: an encoder made of hashes, plans without open_clip, tiny catalogs."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

from cache.layout import (
    ITEM_DTYPE,
    LABELS_COMMIT,
    LABELS_TABLE,
    array_name,
    chunk_name,
    commit_name,
    items_name,
    parquet_bytes,
    rows_name,
)
from cache.reader import PLAN, read_plan
from cache.storage import LocalStorage
from cache.writer import ShardWriter, write_labels
from pipeline.embed import embed
from schemas.configs import to_json
from schemas.plan import EncoderSpec, ItemsSource, Plan, Preprocess, even_shards
from schemas.run import FitRuntime
from schemas.tables import ITEMS, LABELS, ROWS

CPU = FitRuntime(device="cpu")


def chunk_path(workspace: LocalStorage, name: str, chunk: int) -> Path:
    """Return the file of a chunk, to damage it."""
    return workspace.path(chunk_name(name, chunk))


def array_path(workspace: LocalStorage, name: str) -> Path:
    """Return the folder of an array."""
    return workspace.path(array_name(name))


def commit_path(workspace: LocalStorage, shard: int) -> Path:
    """Return the file of a shard's commit."""
    return workspace.path(commit_name(shard))


def rows_path(workspace: LocalStorage, shard: int) -> Path:
    """Return the file of a shard's rows."""
    return workspace.path(rows_name(shard))


def items_path(workspace: LocalStorage, shard: int) -> Path:
    """Return the file of a shard's items."""
    return workspace.path(items_name(shard))


def labels_path(workspace: LocalStorage) -> Path:
    """Return the file of the labels."""
    return workspace.path(LABELS_TABLE)


def labels_commit_path(workspace: LocalStorage) -> Path:
    """Return the file of the label embeddings' commit."""
    return workspace.path(LABELS_COMMIT)


def plan_path(workspace: LocalStorage) -> Path:
    """Return the file of the plan."""
    return workspace.path(PLAN)


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
    jpegs = None

    def __init__(self, spec: EncoderSpec | None = None) -> None:
        self.spec = spec or fake_spec()
        self.num_images = self.num_texts = 0

    def encode_images(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for pixels in batches:
            self.num_images += len(pixels)
            yield np.stack([self._unit(picture.tobytes()) for picture in pixels])

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        self.num_texts += len(texts)
        vectors = [self._unit(text.encode()) for text in texts]
        return np.array(vectors, np.float32).reshape(len(texts), self.spec.embed_dim)

    def tokenize(self, texts: Sequence[str]) -> Sequence[str]:
        return texts

    def encode_tokens(self, parts: Sequence[Sequence[str]], batch_size: int = 64) -> np.ndarray:
        return self.encode_texts([text for part in parts for text in part], batch_size)

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
    workspace: LocalStorage,
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
        items=ItemsSource(files=()),
        labels_path="labels.csv",
        labels_sha256="0" * 64,
        label_text="name",
        num_labels=num_labels,
        limit=None,
        encoder=spec,
        spec_id=spec.spec_id(),
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        shard_items=even_shards(num_items, shard_rows),
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
        workspace.write(items_name(shard), items_files[-1])
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
    workspace.write(LABELS_TABLE, labels_file)
    plan = replace(
        plan,
        items_tables=tuple(hashlib.sha256(file).hexdigest() for file in items_files),
        labels_table=hashlib.sha256(labels_file).hexdigest(),
    )
    workspace.write(PLAN, to_json(plan).encode())
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
    workspace: LocalStorage, plan: Plan, shard: int, embeddings: dict[str, np.ndarray]
) -> None:
    """Write and commit one shard; rows with NaN are marked as absent."""
    with ShardWriter(workspace, plan, shard, compute_dtype="float32", batch_size=50) as writer:
        writer.discard(writer.chunks.start)
        for chunk in writer.missing:
            rows = slice(*writer.chunk_range(chunk))
            image, title = embeddings["image"][rows], embeddings["title"][rows]
            table = rows_table(rows.start, ~np.isnan(image).any(1), ~np.isnan(title).any(1))
            writer.write(chunk, image=image, title=title, rows=table)
        writer.commit()


def rows_table(start: int, image_ok: np.ndarray, title_ok: np.ndarray) -> pa.Table:
    """Return a rows table without hashes; what is not ok is marked as absent."""
    num_rows = len(image_ok)
    columns = {
        "row": np.arange(start, start + num_rows),
        "item_id": [f"item-{row:06d}" for row in range(start, start + num_rows)],
        "image_ok": image_ok,
        "title_ok": title_ok,
        "error": [
            None if a and b else "image: absent" for a, b in zip(image_ok, title_ok, strict=True)
        ],
        "image_sha256": pa.nulls(num_rows, pa.string()),
        "title_sha256": pa.nulls(num_rows, pa.string()),
        "image_title_cosine": pa.nulls(num_rows, pa.float32()),
    }
    return pa.table(columns).cast(ROWS)


def fake_workspace(workspace: LocalStorage, *, num_items: int = 300, num_labels: int = 6) -> Plan:
    """Write a whole workspace up to the label graph's inputs: plan, cache, label embeddings."""
    plan = fake_plan(workspace, num_items=num_items, num_labels=num_labels)
    embeddings = fake_embeddings(plan)
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    write_labels_of(workspace, plan)
    return plan


def write_labels_of(workspace: LocalStorage, plan: Plan) -> None:
    """Write and commit label embeddings."""
    label_emb = np.random.default_rng(1).standard_normal((plan.num_labels, plan.encoder.embed_dim))
    write_labels(workspace, plan, label_emb, compute_dtype="float32", seconds=0.0)


def embed_here(location: str, shards: list[int], device: str) -> None:
    """Embed in a process of its own; `broken` is a device that fails."""
    if device == "broken":
        raise SystemExit(3)
    workspace = LocalStorage(Path(location))
    embed(
        workspace,
        read_plan(workspace),
        shards,
        HashEncoder,
        with_labels=False,
        num_workers=0,
        is_one_of_many=True,
    )
