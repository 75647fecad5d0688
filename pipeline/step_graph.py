"""A training step recorded once as a CUDA graph and replayed with other rows.

A step is some 170 kernels of 10 us, and Python takes three times as long to launch them one by one
as they take to run: 6 to 8 ms against 2 on an H100 (benchmarks/gpu.py). Replayed, it computes what
it would have computed.

B batch.
"""

import threading
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.tensors import Batch

_RECORDING = threading.Lock()


class StepGraph:
    """One step, for batches of one size."""

    def __init__(
        self, step: Callable[[Batch], Float[Tensor, "2"]], batch: Batch, noise: torch.Generator
    ) -> None:
        """Record a step without taking it.

        Args:
            step: computes gradients and changes the weights, without a look at any value; taken
                before, so that the optimizer has its state.
            batch: of the size that all will have, B.
            noise: what random numbers are drawn from, seeded for a step.
        Raises: torch.OutOfMemoryError if there is no memory for activations of its own.
        """
        self._batch = Batch(*(each.clone() for each in batch))
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(noise)
        # Other threads go on copying to the device meanwhile.
        with _RECORDING, torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._losses = step(self._batch)

    def take(self, batch: Batch) -> Float[Tensor, "2"]:
        """Take the step with another batch; return its losses."""
        for place, each in zip(self._batch, batch, strict=True):
            place.copy_(each)
        self._graph.replay()
        return self._losses.clone()
