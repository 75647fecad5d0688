"""Bring rows of foreign embeddings to the cache's form: float16, unit length, NaN where unusable.

Blockwise, so that the numbers stay in the processor's cache. Writes nothing.

D embedding width, n some rows.
"""

import numpy as np
from jaxtyping import Float, Float16, Float32, Int, UInt8

from cache.layout import ITEM_DTYPE
from pipeline.embedding_files import BLOCK_ROWS, Matrix, span

_UNIT_TOLERANCE = 1e-3
OK, NOT_IMPORTED, NOT_FINITE, ZERO = range(4)
_HALF_BIAS = np.float32(2.0**112)  # of float16's exponent to float32's


def gather(
    matrix: Matrix | None, positions: Int[np.ndarray, " n"], dim: int
) -> tuple[Float16[np.ndarray, "n D"], UInt8[np.ndarray, " n"]]:
    """Return rows of the source in unit length, NaN where there is none, and what became of each.

    Args:
        matrix: of one modality.
        positions: rows of it, -1 for none.
        dim: D.
    """
    out = np.full((len(positions), dim), np.nan, ITEM_DTYPE)
    codes = np.full(len(positions), NOT_IMPORTED, np.uint8)
    if matrix is None:
        return out, codes
    places = np.flatnonzero(positions >= 0)
    places = places[np.argsort(positions[places], kind="stable")]  # as the files lie on the disk
    for first in range(0, len(places), BLOCK_ROWS):
        block = places[first : first + BLOCK_ROWS]
        for found, raw in matrix.read(positions[block]):
            here = span(block[found])
            out[here], codes[here] = unit_rows(raw)
    return out, codes


def unit_rows(
    raw: Float[np.ndarray, "n D"],
) -> tuple[Float16[np.ndarray, "n D"], UInt8[np.ndarray, " n"]]:
    """Bring rows to unit length; those that have it stay as they are, bit for bit."""
    wide = to_float32(raw)
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        others = np.flatnonzero(~(np.abs(norms - 1) <= _UNIT_TOLERANCE))
        unit = raw if raw.dtype == ITEM_DTYPE else wide.astype(ITEM_DTYPE)
        codes = np.zeros(len(raw), np.uint8)
        if len(others):
            rows = raw[others].astype(np.float32)
            largest = np.abs(rows).max(axis=1)
            codes[others] = np.select([~np.isfinite(largest), largest == 0], [NOT_FINITE, ZERO], OK)
            rows /= largest[:, None]  # else a square may overflow
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            rows[codes[others] != OK] = np.nan
            unit = np.array(unit)
            unit[others] = rows
    return unit, codes


def to_float32(matrix: Float[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
    """Widen to float32; what is not finite in float16 becomes 65536 and more.

    NumPy converts halves one by one (0.46e9 a second here). Their exponent and mantissa moved to
    float32's places stand for the value times 2**-112, by integer operations that the processor
    does many at a time (2.3e9); infinities and NaN are then no longer special.
    """
    if matrix.dtype != ITEM_DTYPE:
        with np.errstate(over="ignore"):
            return matrix.astype(np.float32, order="C")
    bits = matrix.view(np.int16).astype(np.int32, order="C")  # the sign fills the upper half
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: sign, and the 15 other bits below three zeros
    wide = bits.view(np.float32)
    wide *= _HALF_BIAS
    return wide
