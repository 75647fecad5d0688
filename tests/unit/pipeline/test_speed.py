"""What a run's pace is measured against."""

import pytest
import torch

from pipeline.fusion import FusionNetwork
from pipeline.speed import Product, Speed, measure_speed, products_of, seconds_of

B, D, H, C = 4, 8, 16, 5


def inputs() -> tuple[torch.Tensor, ...]:
    ok = torch.ones(B, dtype=torch.bool)
    return torch.randn(B, D), torch.randn(B, D), ok, ok


def test_the_products_of_a_step_are_those_of_its_linear_layers() -> None:
    """Two tokens an item in the attention; embeddings get no gradient."""
    network = FusionNetwork(embed_dim=D, num_classes=C, hidden_dim=H).train()
    found = products_of(network, inputs())
    assert found == [
        Product(2 * B, D, 3 * D, has_input_grad=False),
        Product(2 * B, D, D, has_input_grad=True),
        Product(B, 2 * D, H, has_input_grad=True),
        Product(B, H, C, has_input_grad=True),
    ]
    assert [each.flops for each in found[:2]] == [4 * 2 * B * D * 3 * D, 6 * 2 * B * D * D]
    assert network.training
    assert not network.mlp[0]._forward_hooks
    concat = FusionNetwork(embed_dim=D, num_classes=C, hidden_dim=H, fusion="concat")
    assert [each.has_input_grad for each in products_of(concat, inputs())] == [False, True]


def test_a_pace_is_put_beside_its_limit() -> None:
    """Items a second of the products alone, and the rate of arithmetic at the run's own pace."""
    network = FusionNetwork(embed_dim=D, num_classes=C, hidden_dim=H)
    speed = measure_speed(network, inputs(), items_per_second=100.0, dtype=torch.float32)
    flops = sum(each.flops for each in products_of(network, inputs())) / B
    assert speed.flops_per_second == pytest.approx(100 * flops)
    assert speed.limit_items_per_second > 100
    assert speed.peak_bytes > 1e7


def test_every_product_of_a_step_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, the weight's gradient and, where there is one, the input's."""
    done: list[int] = []
    mm = torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b: (done.append(2 * a.shape[0] * a.shape[1] * b.shape[1]), mm(a, b))
    )
    network = FusionNetwork(embed_dim=D, num_classes=C, hidden_dim=H)
    products = products_of(network, inputs())
    assert seconds_of(products, torch.device("cpu"), torch.float32) > 0
    assert sum(done) % sum(each.flops for each in products) == 0
    assert len(done) % 11 == 0  # two products of the first layer, three of the other three


def test_speed_is_one_readable_line() -> None:
    """Printed below the metrics of a run."""
    speed = Speed(
        items_per_second=8000.4,
        limit_items_per_second=10000.0,
        flops_per_second=3.2e11,
        peak_bytes=2_500_000_000,
    )
    assert str(speed) == (
        "8,000 items/s, 80% of its matrix products alone (10,000 items/s; 320 GFLOP/s reached), "
        "peak memory 2.5 GB"
    )


def test_codes_are_a_product_whose_matrix_is_not_trained() -> None:
    """Bits to classes, and back to the bits; a loss of the bits alone has none of it."""
    codes = torch.zeros(C, 7, dtype=torch.bool)
    coded = FusionNetwork(
        embed_dim=D, num_classes=C, hidden_dim=H, fusion="concat", codes=codes, has_classes=False
    )
    found = products_of(coded, inputs())
    assert found[-2:] == [
        Product(B, H, 7, has_input_grad=True),
        Product(B, 7, C, has_input_grad=True, has_weight_grad=False),
    ]
    assert found[-1].flops == 2 * 2 * B * 7 * C
    assert products_of(coded, inputs(), learns_bits=True) == found[:-1]
    assert seconds_of(found, torch.device("cpu"), torch.float32) > 0
