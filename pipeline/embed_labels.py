"""The label embeddings: the texts of the labels through the encoder's text tower.

Cost: a forward pass a label text; texts that were embedded before are kept.

C labels, D embedding width.
"""

import logging
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64

from cache.reader import read_label_emb, read_label_texts, read_labels
from cache.storage import Storage
from cache.writer import write_labels
from pipeline.embed_shard import EncoderLike
from pipeline.labels import label_prompts
from pipeline.logs import event
from schemas.errors import CacheCorruptError, CacheIncompleteError, ConfigError
from schemas.plan import Plan

logger = logging.getLogger(__name__)


def embed_labels(
    workspace: Storage, plan: Plan, encoder: EncoderLike, batch_size: int = 256
) -> None:
    """Embed the label texts of the plan, several a label into their mean, and commit them.

    What was embedded before, for whichever label, is kept as it is.
    """
    started = time.perf_counter()
    prompts = label_prompts(read_labels(workspace, plan), plan.label_text)
    kept = read_label_texts(workspace, plan)
    known = {} if kept is None else dict(zip(*kept, strict=True))
    new = [texts for texts in dict.fromkeys(prompts) if texts not in known]
    if new:
        of_templates = [encoder.encode_texts(each, batch_size) for each in zip(*new, strict=True)]
        embedded = of_templates[0] if len(of_templates) == 1 else mean_direction(of_templates)
        known.update(zip(new, embedded, strict=True))
    label_emb = np.stack([known[texts] for texts in prompts])
    seconds = time.perf_counter() - started
    write_labels(
        workspace,
        plan,
        label_emb,
        texts=prompts,
        compute_dtype=encoder.compute_dtype,
        seconds=seconds,
    )
    logger.info(
        "labels: %d texts embedded in %.1f s, %d labels in all",
        len(new),
        seconds,
        len(prompts),
        extra=event("labels_done", texts=len(new), labels=len(prompts), seconds=seconds),
    )


def mean_direction(embeddings: Sequence[Float32[np.ndarray, "C D"]]) -> Float32[np.ndarray, "C D"]:
    """Average embeddings of the same labels as directions.

    mean[y] = v / |v|  with  v = sum over templates t of e_t[y] / |e_t[y]|

    Args:
        embeddings: one matrix a template.
    Returns: rows of unit length; zero where the directions cancel out.
    Source: Radford et al. 2021, section 3.1.4: prompts ensembled over the embedding space.
    """
    total = np.zeros(embeddings[0].shape)
    for matrix in embeddings:
        total += _unit(matrix.astype(np.float64))
    return _unit(total).astype(np.float32)


def _unit(matrix: Float64[np.ndarray, "C D"]) -> Float64[np.ndarray, "C D"]:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms > 0, norms, 1.0)


def labels_problem(workspace: Storage, plan: Plan) -> str:
    """Return why the label embeddings have to be made; empty if they are there and current."""
    try:
        read_label_emb(workspace, plan)
    except (CacheIncompleteError, CacheCorruptError, ConfigError) as error:
        return error.what
    return ""
