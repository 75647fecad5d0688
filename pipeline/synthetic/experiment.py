"""Three ways to train one small network on a synthetic set, and how fast each learns.

    multi-class            C outputs, cross-entropy
    multi-label            Q outputs, one a feature, binary cross-entropy; codes that are right
    multi-label, wrong     the same with the codes of other classes

The class that a multi-label network answers is the one whose code is most likely. The arms of a
seed share images, batch order and the weights before the last layer.

B batch, C classes, Q bits of a code. Source: Yang 2022, "Semantic Label Representation", second
proposal; images of Dippel et al. 2021.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from pipeline.synthetic.shapes import SETS, make_images, wrong_codes
from schemas.errors import ConfigError

MULTI_CLASS, MULTI_LABEL, WRONG = "multi-class", "multi-label", "multi-label, wrong codes"
ARMS = (MULTI_CLASS, MULTI_LABEL, WRONG)

_WIDTHS = (8, 16, 32, 64)
_NORM_GROUPS = 4
_TEST_BATCH = 50  # more at a time is slower on a CPU


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What shapes a run; two runs with the same one are one."""

    images: str
    """`rectangle-triangle` or `circle-square`."""
    arm: str
    """`multi-class`, `multi-label` or `multi-label, wrong codes`."""
    seed: int
    """Of images, weights and batch order; of which codes are the wrong ones."""
    epochs: int = 30
    """Passes over the train images."""
    batch_size: int = 32
    """B."""
    lr: float = 1e-3
    """Of Adam, the same in every step."""
    steps_per_test: int = 10
    """Steps between two looks at the test images."""
    version: int = 1
    """Of images and network: results of another one are made again."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a run reached, and when."""

    config: SyntheticConfig
    steps: tuple[int, ...]
    """After which the test images were looked at."""
    losses: tuple[float, ...]
    """Mean over the train batches since the look before, in nats."""
    accuracies: tuple[float, ...]
    """Share of the test images, 0..1."""

    def __post_init__(self) -> None:
        """Check that there is one of each a look. Raises: ConfigError."""
        lengths = {len(self.steps), len(self.losses), len(self.accuracies)}
        if len(lengths) > 1 or 0 in lengths:
            raise ConfigError(
                f"{len(self.steps)} steps, {len(self.losses)} losses and "
                f"{len(self.accuracies)} accuracies, expected as many of each",
                where=f"run of {self.config.arm}, seed {self.config.seed}",
                fix="delete its result.json",
            )


class SmallNetwork(nn.Module):
    """Four convolutions, then the largest answer anywhere in the image to each of 64 features."""

    def __init__(self, num_outputs: int) -> None:
        """Make the network with fresh weights; those before the last layer are drawn first."""
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for number, width in enumerate(_WIDTHS):
            if number == 0:
                layers.append(nn.Conv2d(before, width, 5, stride=2, padding=2))
            else:
                layers += [nn.MaxPool2d(2), nn.Conv2d(before, width, 3, padding=1)]
            layers += [nn.GroupNorm(_NORM_GROUPS, width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.last = nn.Linear(before, num_outputs)

    def forward(self, images: Float[Tensor, "B 1 128 128"]) -> Float[Tensor, "B O"]:
        """Return logits, of classes or of bits."""
        said: Tensor = self.last(self.features(images))
        return said


def train(config: SyntheticConfig) -> Curve:
    """Train one network, looking at the test images as it goes.

    The same bytes for the same config on one machine, with one thread.
    """
    images, labels = _tensors(config, "train")
    test_images, test_labels = _tensors(config, "test")
    codes = codes_of(config)
    torch.manual_seed(config.seed)
    network = SmallNetwork(SETS[config.images].num_classes if codes is None else codes.shape[1])
    network.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    steps, losses, accuracies = [], [], []
    recent: list[float] = []
    for step, rows in enumerate(_batches(config, len(images)), start=1):
        optimizer.zero_grad()
        loss = loss_of(network(images[rows]), labels[rows], codes)
        loss.backward()
        optimizer.step()
        recent.append(loss.item())
        if step % config.steps_per_test == 0:
            answers = _answers(network, test_images, codes)
            steps.append(step)
            losses.append(float(np.mean(recent)))
            accuracies.append(float((answers == test_labels).float().mean()))
            recent.clear()
    return Curve(
        config=config, steps=tuple(steps), losses=tuple(losses), accuracies=tuple(accuracies)
    )


def codes_of(config: SyntheticConfig) -> Bool[Tensor, "C Q"] | None:
    """Return the codes that an arm learns; None for the multi-class one.

    Of the wrong ones each seed takes the next, so that ten seeds do not all have the same mistake.
    """
    right = SETS[config.images].codes
    if config.arm == MULTI_CLASS:
        return None
    if config.arm == MULTI_LABEL:
        return torch.from_numpy(right)
    wrong = wrong_codes(right)
    return torch.from_numpy(wrong[config.seed % len(wrong)])


def loss_of(
    logits: Float[Tensor, "B O"], labels: Int64[Tensor, " B"], codes: Bool[Tensor, "C Q"] | None
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy, of classes or of bits."""
    if codes is None:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, codes[labels].float())


def class_scores(
    logits: Float[Tensor, "B O"], codes: Bool[Tensor, "C Q"] | None
) -> Float[Tensor, "B C"]:
    """Return what the highest of decides: class logits, or the codes' log-likelihoods."""
    if codes is None:
        return logits
    is_set = codes.float()
    return F.logsigmoid(logits) @ is_set.T + F.logsigmoid(-logits) @ (1 - is_set).T


def _tensors(
    config: SyntheticConfig, split: str
) -> tuple[Float[Tensor, "N 1 128 128"], Int64[Tensor, " N"]]:
    images, labels = make_images(config.images, split, config.seed)
    pixels = torch.from_numpy(images)[:, None].float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(labels)


@torch.inference_mode()
def _answers(
    network: SmallNetwork, images: Float[Tensor, "N 1 128 128"], codes: Bool[Tensor, "C Q"] | None
) -> Int64[Tensor, " N"]:
    parts = [class_scores(network(part), codes).argmax(dim=1) for part in images.split(_TEST_BATCH)]
    return torch.cat(parts)


def _batches(config: SyntheticConfig, num_images: int) -> Iterator[Int64[Tensor, " B"]]:
    """Yield rows, in an order of their own in each epoch that all arms share."""
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed(config.seed * config.epochs + epoch)
        yield from torch.randperm(num_images, generator=generator).split(config.batch_size)
