"""How fast a run was, beside what its matrix products alone would allow, and what memory it took.

B batch.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.fusion import FusionNetwork

_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of a run's training."""

    items_per_second: float
    """Evaluation and loading left out."""
    limit_items_per_second: float
    """Of the matrix products of its linear layers, forward and backward, in the same dtype."""
    flops_per_second: float
    """Of those products, at the run's pace."""
    peak_bytes: int
    """Of the device's memory; on a CPU of the process."""

    def __str__(self) -> str:
        """Say it in one line."""
        share = self.items_per_second / self.limit_items_per_second
        return (
            f"{self.items_per_second:,.0f} items/s, {share:.0%} of its matrix products alone "
            f"({self.limit_items_per_second:,.0f} items/s; {self.flops_per_second / 1e9:,.0f} "
            f"GFLOP/s reached), peak memory {self.peak_bytes / 1e9:.1f} GB"
        )


@dataclass(frozen=True)
class Product:
    """A linear layer's work on one batch."""

    num_rows: int
    in_dim: int
    out_dim: int
    has_input_grad: bool
    has_weight_grad: bool = True
    """False of a fixed matrix, as that of the codes."""

    @property
    def flops(self) -> int:
        """Multiplications and additions, forward and backward."""
        num_products = 1 + self.has_input_grad + self.has_weight_grad
        return 2 * num_products * self.num_rows * self.in_dim * self.out_dim


def products_of(
    network: FusionNetwork, inputs: tuple[Tensor, ...], *, learns_bits: bool = False
) -> list[Product]:
    """Return the matrix products of one training step.

    Args:
        network: the network.
        inputs: of a batch, as its forward takes them.
        learns_bits: the loss is of bits, and the classes' scores are not computed.
    """
    found: list[Product] = []

    def note(layer: nn.Module, given: tuple[Any, ...], result: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        num_rows = given[0].numel() // layer.in_features
        shape = (num_rows, layer.in_features, layer.out_features)
        found.append(Product(*shape, given[0].requires_grad))

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    was_training = network.training
    try:
        network.eval()(*inputs)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    if network.codes is not None and not learns_bits:
        num_classes, num_bits = network.codes.shape
        found.append(Product(len(inputs[0]), num_bits, num_classes, True, has_weight_grad=False))
    return found


def seconds_of(products: list[Product], device: torch.device, dtype: torch.dtype) -> float:
    """Return the time that the products alone take, the median of three tries."""
    made = [_operands(product, device, dtype) for product in products]

    def run() -> None:
        for product, (x, weight, grad) in zip(products, made, strict=True):
            torch.mm(x, weight.T)
            if product.has_weight_grad:
                torch.mm(grad.T, x)
            if product.has_input_grad:
                torch.mm(grad, weight)

    run()
    return statistics.median(seconds(run, device) for _ in range(_REPEATS))


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Time one call, work that a device was given included."""
    _wait(device)
    started = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - started


def measure_speed(
    network: FusionNetwork,
    inputs: tuple[Tensor, ...],
    *,
    items_per_second: float,
    dtype: torch.dtype,
    num_processes: int = 1,
    learns_bits: bool = False,
) -> Speed:
    """Time the products of one batch and put a run's pace beside them.

    Args:
        network: the network that was trained.
        inputs: of a batch, or of one process's part.
        items_per_second: the run's pace, of all processes.
        dtype: in which the network was multiplied.
        num_processes: that shared the run.
        learns_bits: as in `products_of`.
    """
    device = inputs[0].device
    products = products_of(network, inputs, learns_bits=learns_bits)
    limit = seconds_of(products, device, dtype) / len(inputs[0])
    flops = sum(product.flops for product in products) / len(inputs[0])
    return Speed(
        items_per_second=items_per_second,
        limit_items_per_second=num_processes / limit,
        flops_per_second=flops * items_per_second,
        peak_bytes=peak_bytes(device),
    )


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that was in use: of a GPU by tensors, else by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: its figure begins with that of the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _operands(
    product: Product, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = [
        (product.num_rows, product.in_dim),
        (product.out_dim, product.in_dim),
        (product.num_rows, product.out_dim),
    ]
    generator = torch.Generator(device).manual_seed(0)
    x, weight, grad = (
        torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes
    )
    return x, weight, grad


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
