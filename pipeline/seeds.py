"""One seed for each use of randomness in a run, from the run's own seed."""

import zlib

import numpy as np


def derived_seed(use: str, *numbers: int) -> int:
    """Return a seed in [0, 2^63) that depends on the use and the numbers alone.

    Args:
        use: what it is for, so that two uses with the same numbers differ.
        numbers: such as the run's seed and a step; each at least 0.
    """
    words = np.random.SeedSequence([zlib.crc32(use.encode()), *numbers])
    return int(words.generate_state(1, np.uint64)[0] >> 1)
