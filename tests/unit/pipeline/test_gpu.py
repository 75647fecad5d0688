"""What a GPU computes otherwise than a CPU, against the plain way on the same GPU.

python -m pytest -m gpu
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.storage import LocalStorage
from pipeline.encoder import load_encoder, resolve
from pipeline.fit import build_targets, fit
from pipeline.losses import has_kernels, loss_parts, to_tensors
from pipeline.neighbors import write_neighbors
from pipeline.ranks import ALONE
from pipeline.runs import make_record
from pipeline.stopping import Stop
from pipeline.tensors import FitData
from pipeline.trainer import Trainer
from schemas.plan import Plan
from schemas.run import FitConfig, FitRuntime
from schemas.targets import TargetTable
from tests.fakes import fake_workspace

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU = torch.device("cuda")
CONFIG = FitConfig(approach="4", epochs=4, batch_size=32, hidden_dim=32, lr=0.01)


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace, num_items=400)
    write_neighbors(workspace, plan, k=3)
    return plan


def make_trainer(
    workspace: LocalStorage, plan: Plan, config: FitConfig, dtype: str = "float32"
) -> Trainer:
    data = FitData(workspace, plan, GPU)
    data.load("device")
    record = replace(make_record(config, data), compute_dtype=dtype)
    runtime = FitRuntime(device="cuda")
    return Trainer(data, record, build_targets(config, data), runtime, ALONE, Stop())


def losses_of(trainer: Trainer) -> list[float]:
    """Train four epochs; return each step's losses."""
    losses = []
    for epoch in range(1, 5):
        for part in trainer.batches.epoch(epoch, 0):
            losses += trainer._step(part).tolist()
            trainer.step += 1
    return losses


@pytest.mark.parametrize("approach", ["1", "2", "3", "4", "5"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_recorded_step_is_the_same_step(
    workspace: LocalStorage, plan: Plan, approach: str, dtype: str
) -> None:
    """Dropout, learning rate and hardening included; the last batch of an epoch is shorter."""
    config = replace(CONFIG, approach=approach)
    plain, recorded = (make_trainer(workspace, plan, config, dtype) for _ in range(2))
    plain.can_record = False
    assert losses_of(plain) == pytest.approx(losses_of(recorded), rel=1e-4, abs=1e-6)
    assert plain.recorded is None
    assert recorded.recorded is not None
    pairs = zip(plain.network.parameters(), recorded.network.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_step_that_cannot_be_recorded_is_launched_plainly(
    workspace: LocalStorage, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    plain, looking = (make_trainer(workspace, plan, CONFIG) for _ in range(2))
    plain.can_record = False

    def look(layer: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        assert given[0].sum().isfinite().item()  # waits for the GPU, which no recording can

    looking.network.mlp.register_forward_pre_hook(look)
    assert losses_of(looking) == pytest.approx(losses_of(plain), rel=1e-4, abs=1e-6)
    assert looking.recorded is None
    assert "launched kernel by kernel" in caplog.text


def test_online_targets_are_learned_from_as_on_a_cpu(workspace: LocalStorage, plan: Plan) -> None:
    config = replace(CONFIG, approach="online")
    top1 = []
    for device in ("cuda", "cpu"):
        top1.append(fit(workspace, plan, config, runtime=FitRuntime(device=device)).metrics.top1)
        config = replace(config, seed=1)
    assert min(top1) > 0.8
    assert top1[0] == pytest.approx(top1[1], abs=0.1)


def test_a_run_learns_and_resumes_as_on_a_cpu(workspace: LocalStorage, plan: Plan) -> None:
    found = fit(workspace, plan, CONFIG, runtime=FitRuntime(device="cuda"))
    assert found.metrics.top1 > 0.8


@pytest.mark.parametrize("num_classes", [24, 4350, 9001])
def test_losses_by_kernels_equal_those_in_float64(num_classes: int) -> None:
    assert has_kernels()
    generator = torch.Generator(GPU).manual_seed(0)
    size = (64, num_classes)
    logits = (4 * torch.randn(size, generator=generator, device=GPU) + 20).bfloat16()
    labels = torch.randint(num_classes, (64,), generator=generator, device=GPU)
    rng = np.random.default_rng(0)
    index = (np.arange(num_classes)[:, None] + np.arange(6)) % num_classes
    weight = rng.random((num_classes, 6)).astype(np.float32)
    weight *= 0.9 / weight.sum(axis=1, keepdims=True)
    base = np.full(num_classes, 0.1 / num_classes, np.float32)
    targets = to_tensors(TargetTable(index, weight, base), GPU)
    found, expected = [], []
    for dtype, values in ((torch.bfloat16, found), (torch.float64, expected)):
        z = logits.detach().to(dtype).clone().requires_grad_()
        focal, kl = loss_parts(z, labels, targets, 2.0, 1.0)
        (focal + kl).backward()
        assert z.grad is not None
        values += [focal.double(), kl.double(), z.grad.double()]
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert found[1].item() == pytest.approx(expected[1].item(), rel=1e-4)
    assert (found[2] - expected[2]).norm() < 1e-2 * expected[2].norm()


def test_embeddings_arrive_on_the_device_as_they_are(workspace: LocalStorage, plan: Plan) -> None:
    on_device, in_memory = (FitData(workspace, plan, GPU) for _ in range(2))
    on_device.load("device")
    in_memory.load("host")
    for name in ("image", "title"):
        assert on_device.whole[name].is_cuda
        assert not in_memory.whole[name].is_cuda
        assert torch.equal(
            on_device.whole[name].cpu().view(torch.int16), in_memory.whole[name].view(torch.int16)
        )


def test_the_bundled_encoder_says_the_same_as_on_a_cpu() -> None:
    spec = resolve("shelfwise-tiny", "")
    titles = ["Acme Men's Leather Boots", "Toaster, 2 slices", ""]
    pixels = np.random.default_rng(0).integers(0, 256, (3, *spec.preprocess.size, 3), np.uint8)
    pixels = pixels // 64 * 64
    found = []
    for device in ("cuda", "cpu"):
        encoder = load_encoder(spec, device, "float32" if device == "cpu" else "auto")
        (image_emb,) = encoder.encode_images([pixels])
        found.append(np.concatenate([image_emb, encoder.encode_texts(titles, 3)]))
    assert (found[0] * found[1]).sum(axis=1).min() > 0.999
