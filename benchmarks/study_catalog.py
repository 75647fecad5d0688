"""Make a planned and embedded workspace over real labels whose items are simulated embeddings.

Labels, names, paths and their geometry are real: the Google product taxonomy and its names under
MiniLM, brought to CLIP-like cosines by a constant appended to every unit vector. Items are not: in
each modality a class has a prototype, partly the label's embedding, partly its own, and an item is
its class's prototypes with noise. Counts are long-tailed. Same arguments, same bytes.

N items, C labels, D embedding width, n some rows.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from jaxtyping import Float, Int
from simulated import embedded_rows, make_workspace

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.layout import MODALITIES
from cache.storage import LocalStorage
from cache.writer import ShardWriter, write_labels
from schemas.plan import Plan

CONSTANT = np.sqrt(2.11)  # appended to unit vectors: the mean cosine of the top 20 becomes 0.85
WIDTH = 392  # MiniLM's 384, the constant and zeros, so that 8 heads divide it
GEOMETRY = 0.6  # share of a prototype that is the label's embedding
NOISE = {"image": 3.8, "title": 3.4}  # length of the noise beside a prototype of about 1
TAIL = 0.9  # exponent of the classes' counts
SMALLEST = 4


def make_study_catalog(workspace: LocalStorage, labels_folder: Path, num_items: int) -> Plan:
    """Write plan, items, labels, cache and label embeddings.

    Args:
        workspace: an empty one.
        labels_folder: with google.csv and google_minilm.npy.
        num_items: N.
    """
    labels = pa.csv.read_csv(
        labels_folder / "google.csv",
        convert_options=pa.csv.ConvertOptions(column_types={"label_id": pa.string()}),
    )
    unit = np.load(labels_folder / "google_minilm.npy").astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    item_labels = long_tailed(len(labels), num_items, rng)
    plan = make_workspace(workspace, num_items, WIDTH, labels=labels, item_labels=item_labels)
    write_labels(workspace, plan, clip_like(unit), compute_dtype="simulated", seconds=0.0)
    prototypes = {name: _prototypes(unit, rng) for name in MODALITIES}
    for shard in range(plan.num_shards):
        with ShardWriter(workspace, plan, shard, compute_dtype="simulated", batch_size=0) as writer:
            for chunk in writer.missing:
                start, stop = writer.chunk_range(chunk)
                chosen = item_labels[start:stop]
                views = {
                    name: _views(prototypes[name][chosen], NOISE[name], [start, place])
                    for place, name in enumerate(MODALITIES)
                }
                writer.write(chunk, **views, rows=embedded_rows(start, stop))
            writer.commit()
    return plan


def clip_like(unit: Float[np.ndarray, "C d"]) -> Float[np.ndarray, "C D"]:
    """Append the constant, fill up with zeros and bring to unit length again."""
    wide = np.zeros((len(unit), WIDTH), np.float32)
    wide[:, : unit.shape[1]] = unit
    wide[:, unit.shape[1]] = CONSTANT
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def long_tailed(num_labels: int, num_items: int, rng: np.random.Generator) -> Int[np.ndarray, " N"]:
    """Return the items' labels: counts fall as a power of the rank, in any order of labels."""
    weight = (np.arange(num_labels) + 10.0) ** -TAIL
    counts = np.maximum(SMALLEST, weight / weight.sum() * num_items).astype(np.int64)
    while counts.sum() > num_items:  # the smallest were raised: the largest give it back
        counts[: (counts > SMALLEST).sum() // 2] -= 1
    counts[0] += num_items - counts.sum()
    return rng.permutation(np.repeat(rng.permutation(num_labels), counts))


def _prototypes(
    unit: Float[np.ndarray, "C d"], rng: np.random.Generator
) -> Float[np.ndarray, "C D"]:
    own = rng.standard_normal((len(unit), WIDTH)).astype(np.float32)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    geometry = np.zeros_like(own)
    geometry[:, : unit.shape[1]] = unit
    return np.sqrt(GEOMETRY) * geometry + np.sqrt(1 - GEOMETRY) * own


def _views(
    prototypes: Float[np.ndarray, "n D"], noise: float, seed: list[int]
) -> Float[np.ndarray, "n D"]:
    rng = np.random.default_rng(seed)
    views = rng.standard_normal(prototypes.shape, np.float32)
    views *= noise / np.sqrt(WIDTH)
    views += prototypes
    return views / np.linalg.norm(views, axis=1, keepdims=True)
