"""Make binary codes of labels: labels that are alike share bits.

Takes cache/label.zarr, or a file of label embeddings, and the labels' paths; writes
codes/<name>.parquet. Bits come from

    embedding   signs of the label embeddings, centered, along their Q principal axes, rotated so
                that the signs lose least (ITQ); beyond as many axes, along random directions
    taxonomy    one bit for each category above some labels, but not all: set below it
    both        side by side

so the codes of siblings agree in the tree's bits and mostly in the others. Signs that two labels
have in common are told apart by flipping the least certain. Cost: see docs/codes.md; memory is that
of a few [C, Q] in float64.

C labels, D embedding width, Q bits, A categories above labels. Source: Yang 2022, the second
proposal; the paper leaves how to make such codes for thousands of classes to future research.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from threadpoolctl import threadpool_limits

from cache.reader import read_label_emb, read_labels
from cache.storage import Storage
from pipeline.label_codes import CodesRecord, codes_name, write_codes
from pipeline.label_embeddings import read_label_embeddings
from pipeline.label_graph import FROM, read_graph
from pipeline.label_inputs import label_inputs
from pipeline.search import itq_rotation
from pipeline.taxonomy import SEPARATOR
from pipeline.text_table import TextTable
from schemas.codes import LabelCodes
from schemas.errors import CacheIncompleteError, CodesError, NeighborsError
from schemas.graph import NeighborGraph
from schemas.plan import Plan

logger = logging.getLogger(__name__)

SOURCES = ("embedding", "taxonomy", "both")
MAX_BITS = 4096


def make_codes(
    workspace: Storage,
    plan: Plan,
    *,
    source: str = "embedding",
    num_bits: int | None = None,
    seed: int | None = None,
    embeddings: str | Path | None = None,
) -> tuple[str, LabelCodes]:
    """Make and write the codes; return their name and themselves.

    Args:
        workspace: where the plan is.
        plan: the workspace's plan.
        source: `embedding`, `taxonomy` or `both`.
        num_bits: from the embeddings, 512 if None; the taxonomy has as many as it has categories.
        seed: of the rotation's start and of random directions, 0 if None.
        embeddings: file of label embeddings made elsewhere, as in `read_label_embeddings`; None for
            the cache's.
    Raises: CacheIncompleteError if the label embeddings are missing or stale; CodesError if the
        labels have no paths, a number is out of range or an embedding is not finite; CatalogError
        and EmbeddingFilesError if a file cannot be read or does not fit the labels.
    """
    if source not in SOURCES:
        raise CodesError(
            f"unknown source {source!r}", where="--source", fix=f"use one of {', '.join(SOURCES)}"
        )
    if source == "taxonomy":
        options = {"--bits": num_bits, "--seed": seed, "--from": embeddings}
        given = [option for option, value in options.items() if value is not None]
        if given:
            raise CodesError(
                "the taxonomy's bits are its categories",
                where=", ".join(given),
                fix="leave it out, or use --source both",
            )
    num_bits, seed = 512 if num_bits is None else num_bits, seed or 0
    labels = read_labels(workspace, plan)
    parts: list[Bool[np.ndarray, "C q"]] = []
    features: list[str] = []
    if source != "embedding":
        if labels["path"].null_count:
            raise CodesError(
                f"{labels['path'].null_count} labels have no path",
                where=workspace.where("labels.parquet"),
                fix="use --source embedding, or plan with a labels file that has the column path",
            )
        features, bits = ancestor_bits(labels["path"].to_pylist())
        if not features:
            raise CodesError(
                "no category stands above some of the labels, but not all",
                where=workspace.where("labels.parquet"),
                fix="use --source embedding",
            )
        parts.append(bits)
    files: dict[str, object] = {}
    if source != "taxonomy":
        if embeddings is None:
            label_emb = read_label_emb(workspace, plan)
        else:
            label_emb, files[FROM] = read_label_embeddings(embeddings, labels["label_id"])
        parts.append(embedding_bits(label_emb, num_bits, seed=seed))
        features += [""] * num_bits
    codes = LabelCodes(np.concatenate(parts, axis=1))
    has_embeddings = source != "taxonomy" and embeddings is None
    record = CodesRecord(
        source=source,
        seed=seed,
        features=tuple(features),
        made_from={**label_inputs(workspace, plan, has_embeddings=has_embeddings), **files},
    )
    name = codes_name(source, num_bits)
    write_codes(workspace, name, codes, record, labels["label_id"])
    if codes.num_collisions:
        logger.warning(
            "%d of %d labels share their code with another: a code head alone cannot tell them "
            "apart",
            codes.num_collisions,
            codes.num_labels,
        )
    return name, codes


def ancestor_bits(paths: Sequence[str]) -> tuple[list[str], Bool[np.ndarray, "C A"]]:
    """Return the categories that some labels share, but not all, and who is below each.

    bits[y, a] = 1 if category a stands in the path of label y, itself included

    Of categories with the same labels below them the topmost is taken. Order: that of the tree.

    Args:
        paths: of the labels, levels joined by " > ".
    """
    below: dict[str, list[int]] = {}
    for label, path in enumerate(paths):
        levels = path.split(SEPARATOR)
        for depth in range(1, len(levels) + 1):
            below.setdefault(SEPARATOR.join(levels[:depth]), []).append(label)
    chosen: dict[tuple[int, ...], str] = {}
    for category in sorted(below, key=lambda each: each.split(SEPARATOR)):
        if 1 < len(below[category]) < len(paths):
            chosen.setdefault(tuple(below[category]), category)
    bits = np.zeros((len(paths), len(chosen)), bool)
    for column, labels in enumerate(chosen):
        bits[list(labels), column] = True
    return list(chosen.values()), bits


def embedding_bits(
    label_emb: Float[np.ndarray, "C D"], num_bits: int, *, seed: int
) -> Bool[np.ndarray, "C Q"]:
    """Return signs of label embeddings after a learned rotation, distinct where 2^Q >= C.

    Bits beyond the axes of the embeddings are signs along random directions (Charikar 2002).

    Same bytes for the same seed on one machine, whatever the number of threads.

    Args:
        label_emb: any length but zero.
        num_bits: Q, 1 to 4,096.
        seed: 0 to 2^31 - 1.
    Raises: CodesError if a number is out of range or an embedding is zero or not finite.
    Source: Gong and Lazebnik, CVPR 2011 (ITQ).
    """
    if not 1 <= num_bits <= MAX_BITS:
        raise CodesError(
            f"{num_bits} bits, expected 1 to {MAX_BITS:,}", where="--bits", fix="use 32 to 512"
        )
    if not 0 <= seed < 2**31:
        raise CodesError(f"seed {seed}, expected 0 to 2^31 - 1", where="--seed", fix="use 0")
    unit = label_emb.astype(np.float64)
    norms = np.linalg.norm(unit, axis=1, keepdims=True)
    is_bad = ~(np.isfinite(norms) & (norms > 0))[:, 0]
    if is_bad.any():
        raise CodesError(
            f"{is_bad.sum()} label embeddings are zero or not finite, the first of label "
            f"{np.flatnonzero(is_bad)[0]}",
            where="label embeddings",
            fix="run `python cli.py embed --labels`",
        )
    unit /= norms
    # With another number of threads sums round otherwise, and after a few iterations every second
    # bit would be another one.
    with threadpool_limits(1):
        values = _rotated(unit - unit.mean(axis=0), num_bits, seed)
    return distinct_signs(values)


def _rotated(
    centered: Float64[np.ndarray, "C D"], num_bits: int, seed: int
) -> Float64[np.ndarray, "C Q"]:
    """Return what the bits are signs of."""
    principal = centered @ _principal_axes(centered, num_bits)
    values = principal @ itq_rotation(principal.astype(np.float32), seed=seed)
    num_axes = principal.shape[1]
    directions = np.random.default_rng(seed).standard_normal((num_axes, num_bits - num_axes))
    directions /= np.sqrt(num_axes)  # so that products are as large as those of a rotation
    return np.concatenate([values, principal @ directions], axis=1)


def _principal_axes(
    centered: Float64[np.ndarray, "C D"], num_axes: int
) -> Float64[np.ndarray, "D A"]:
    """Return the directions of most variance, or all that have any."""
    variance, axes = np.linalg.eigh(centered.T @ centered)
    has_any = variance > max(variance[-1] * 1e-10, len(centered) * 1e-20)
    if not has_any.any():
        raise CodesError(
            f"all {len(centered)} label embeddings have one direction: no bit tells labels apart",
            where="label embeddings",
            fix="check the label texts, or the file of --from; or use --source taxonomy",
        )
    return axes[:, has_any][:, ::-1][:, :num_axes]


def distinct_signs(values: Float[np.ndarray, "C Q"]) -> Bool[np.ndarray, "C Q"]:
    """Return values > 0, told apart: where a code is taken, the least certain bits are flipped.

    The lowest label of those with equal signs keeps them. For each other one, in order, the flips
    of fewest bits are tried first, and among them those of the smallest magnitudes, mean over the
    labels with these signs. Codes stay equal only where there are more labels than codes.

    Args:
        values: whose signs are bits and whose magnitudes say how certain these are.
    """
    bits = np.array(values) > 0
    num_labels, num_bits = bits.shape
    _, first, group = np.unique(
        np.packbits(bits, axis=1), axis=0, return_index=True, return_inverse=True
    )
    taken = {np.packbits(code).tobytes() for code in bits[first]}
    # One a code: each label goes on where the one before it ended.
    flips: dict[int, Iterator[list[int]]] = {}
    for label in np.setdiff1d(np.arange(num_labels), first):
        if len(taken) == 2**num_bits:
            break
        number = int(group.flat[label])
        if number not in flips:
            certainty = np.abs(values[group.ravel() == number]).mean(axis=0)
            flips[number] = _flips(np.argsort(certainty, kind="stable"))
        for flipped in flips[number]:
            code = bits[first[number]].copy()
            code[flipped] ^= True
            if (name := np.packbits(code).tobytes()) not in taken:
                bits[label] = code
                taken.add(name)
                break
    return bits


def _flips(order: Int64[np.ndarray, " Q"]) -> Iterator[list[int]]:
    """Yield sets of bits, smaller sets first, and among them the first in order."""
    for size in range(1, len(order) + 1):
        yield from (list(each) for each in itertools.combinations(order.tolist(), size))


def codes_table(workspace: Storage, plan: Plan, name: str, codes: LabelCodes) -> TextTable:
    """Return what codes are like: bits, collisions, and whether near labels have near codes.

    Args:
        workspace: where the label graph is; without one the last line is left out.
        plan: the workspace's plan.
        name: of the codes.
        codes: themselves.
    """
    shares = codes.bits.mean(axis=0)
    rows = [
        ("labels", f"{codes.num_labels:,}"),
        ("bits", f"{codes.num_bits:,}"),
        ("labels that share their code", f"{codes.num_collisions:,}"),
        ("share of labels that have a bit", f"{shares.min():.2%} to {shares.max():.2%}"),
    ]
    try:
        graph = read_graph(workspace, plan)
    except (NeighborsError, CacheIncompleteError) as error:
        logger.info("not compared with the label graph: %s", error.what)
    else:
        near, far = code_distances(codes, graph)
        rows.append(("bits that differ, from neighbors", f"{near:.1f} (from any label {far:.1f})"))
    return TextTable(title=f"Codes {name}", columns=("", "found"), rows=tuple(rows))


def code_distances(
    codes: LabelCodes, graph: NeighborGraph, *, num_pairs: int = 100_000
) -> tuple[float, float]:
    """Return the mean number of bits in which a label differs from its neighbors, and from others.

    Args:
        codes: of the labels.
        graph: their neighbors.
        num_pairs: random pairs of labels that stand for the others.
    """
    label, place = np.nonzero(graph.neighbors >= 0)
    rng = np.random.default_rng(0)
    one, other = rng.integers(codes.num_labels, size=(2, num_pairs))
    is_pair = one != other
    pairs = ((label, graph.neighbors[label, place]), (one[is_pair], other[is_pair]))
    near, far = (float((codes.bits[a] != codes.bits[b]).sum(axis=1).mean()) for a, b in pairs)
    return near, far
