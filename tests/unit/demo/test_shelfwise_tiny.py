"""The bundled encoder: loads as any open_clip model, is small, and knows the shelves."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.demo import train_tiny
from pipeline.demo.catalog import item_rng, leaves, make_item

WEIGHTS = train_tiny.CONFIG_PATH.with_suffix(".safetensors")
FRESH_SEED = 987_654


@pytest.fixture(scope="module")
def model() -> Any:
    """Load the bundled weights as a user of open_clip would."""
    open_clip.add_model_config(train_tiny.CONFIG_PATH)
    return open_clip.create_model(
        train_tiny.MODEL_NAME, pretrained=str(WEIGHTS), require_pretrained=True
    ).eval()


def test_the_weights_fit_the_config_without_missing_keys(model: Any) -> None:
    """A missing key would leave a layer at random and merely lower the figures."""
    assert set(load_file(WEIGHTS)) == set(model.state_dict())


def test_the_weights_are_at_most_16_mib() -> None:
    """They are committed to the repository."""
    assert WEIGHTS.stat().st_size <= 16 * 2**20


def test_the_tokenizer_uses_the_context_length_of_the_config(model: Any) -> None:
    """open_clip's default of 77 would not fit the positional embedding."""
    tokens = open_clip.get_tokenizer(train_tiny.MODEL_NAME)(["boots"])
    assert tokens.shape == (1, model.positional_embedding.shape[0])


def test_fit_square_equals_open_clips_own_preprocessing() -> None:
    """Training on other pixels than the encoder later sees would waste accuracy."""
    *_, preprocess = open_clip.create_model_and_transforms(train_tiny.MODEL_NAME)
    pixels = np.random.default_rng(0).integers(0, 255, (150, 131, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    square = np.asarray(train_tiny.fit_square(image, train_tiny.image_side()))
    ours = train_tiny.to_input(square[None].copy())[0]
    assert (ours - preprocess(image)).abs().max() < 0.02


def test_trimmed_captions_give_the_same_embeddings(model: Any) -> None:
    """The training's shortcut rests on the causal tower ignoring what follows the end."""
    words = open_clip.get_tokenizer(train_tiny.MODEL_NAME)(["Cowboy Boots", "a red teapot 2 qt"])
    with torch.inference_mode():
        whole = model.encode_text(words, normalize=True)
        cut = train_tiny.encode_captions(model, words.numpy().astype(np.uint16))
    assert torch.allclose(whole, cut, atol=1e-5)


def test_zero_shot_on_fresh_items_is_far_above_chance(model: Any) -> None:
    """The encoder must know pictures it never saw: chance is 1 in 254."""
    tokenizer = open_clip.get_tokenizer(train_tiny.MODEL_NAME)
    labels = torch.arange(0, len(leaves()))
    side = train_tiny.image_side()
    pictures = [
        np.asarray(train_tiny.fit_square(make_item(label, item_rng(FRESH_SEED, label))[0], side))
        for label in labels.tolist()
    ]
    with torch.inference_mode():
        image_emb = model.encode_image(train_tiny.to_input(np.stack(pictures)), normalize=True)
        names = model.encode_text(tokenizer([leaf.name for leaf in leaves()]), normalize=True)
    best = (image_emb @ names.T).topk(5, dim=1).indices
    hits = best == labels[:, None]
    assert hits[:, 0].float().mean() > 0.2
    assert hits.any(dim=1).float().mean() > 0.4


def test_neighbors_of_cowboy_boots_are_mostly_worn_on_feet(model: Any) -> None:
    """The label graph of the demo stands on these names."""
    names = [leaf.name for leaf in leaves()]
    tokenizer = open_clip.get_tokenizer(train_tiny.MODEL_NAME)
    with torch.inference_mode():
        emb = model.encode_text(tokenizer(names), normalize=True)
    label = names.index("Cowboy Boots")
    order = (emb @ emb[label]).argsort(descending=True)[1:9].tolist()
    assert sum(leaves()[other].department == "Shoes" for other in order) >= 5


def test_a_batch_never_holds_a_category_twice() -> None:
    """A second picture of the same category would be a false negative of the CLIP loss."""
    num_classes = len(leaves())
    pairs = train_tiny.Pairs(
        images=np.zeros((num_classes * 2, 1, 1, 3), dtype=np.uint8),
        tokens=np.zeros((num_classes * 2, 1, 1), dtype=np.uint16),
        labels=np.arange(num_classes * 2) % num_classes,
    )
    rows = train_tiny.pick_rows(pairs, np.random.default_rng(0))
    assert len(set(pairs.labels[rows].tolist())) == len(rows) == train_tiny.BATCH_ROWS


def test_the_clip_loss_is_the_slow_sum_over_rows_and_columns() -> None:
    """A transposed term would still train, only worse."""
    rng = torch.Generator().manual_seed(0)
    image_emb, text_emb = torch.randn(2, 5, 8, generator=rng)
    scale = torch.tensor(3.0)
    logits = scale * image_emb @ text_emb.T
    slow = torch.tensor(0.0)
    for i in range(5):
        slow += logits[i].logsumexp(0) + logits[:, i].logsumexp(0) - 2 * logits[i, i]
    assert train_tiny.clip_loss(image_emb, text_emb, scale) == pytest.approx(float(slow) / 10)


def test_the_bundled_files_lie_beside_the_script() -> None:
    """`pipeline/encoder.py` finds them by this place."""
    assert Path(train_tiny.__file__).with_name("shelfwise-tiny.safetensors") == WEIGHTS
    assert WEIGHTS.is_file()
