"""Cutting titles against open_clip's own full-length encoding, on its real text towers.

Weights are random and image towers tiny; the text towers are as configured, 10 to 12 layers deep.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from pipeline.text_tower import TextTower

TINY_IMAGES = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
SMALL_TEXT = {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2}
LENGTHS = [2, 20, 9, 3, 8, 40]
CAUSAL = ["ViT-B-32", "ViT-S-32-alt", "RN50", "coca_ViT-B-32", "ViTamin-S"]
LOOKS_AT_PADDING = ["ViT-B-16-SigLIP", "MobileCLIP2-S0"]


def create(name: str, precision: str = "fp32") -> Any:
    """Return an open_clip model with its real text tower; a real image tower only costs time."""
    config = open_clip.get_model_config(name)
    changed: dict[str, Any] = {"vision_cfg": TINY_IMAGES}
    if "multimodal_cfg" in config:
        changed["vision_cfg"] = TINY_IMAGES | {"attentional_pool": True, "output_tokens": True}
        changed["multimodal_cfg"] = config["multimodal_cfg"] | {"layers": 1}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_clip.create_model(name, precision=precision, **changed).eval()


def small(model_class: Any = open_clip.CLIP, **text: Any) -> Any:
    torch.manual_seed(0)
    return model_class(embed_dim=24, vision_cfg=TINY_IMAGES, text_cfg=SMALL_TEXT | text).eval()


def small_coca() -> Any:
    torch.manual_seed(0)
    text = SMALL_TEXT | {"embed_cls": True, "output_tokens": True}
    images = TINY_IMAGES | {"attentional_pool": True, "output_tokens": True}
    return open_clip.CoCa(24, multimodal_cfg=SMALL_TEXT, text_cfg=text, vision_cfg=images).eval()


def titles(model: Any, lengths: list[int], *, pad_id: int = 0, end_id: int | None = None) -> Tensor:
    """Return random ids, an end token and padding, as tokenizers make them."""
    tower = getattr(model, "text", model)
    num_ids = tower.token_embedding.num_embeddings
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(
        3, num_ids - 1, (len(lengths), tower.context_length), generator=generator
    )
    for row, length in enumerate(lengths):
        tokens[row, length - 1] = num_ids - 1 if end_id is None else end_id
        tokens[row, length:] = pad_id
    return tokens


@torch.inference_mode()
def full_length(model: Any, tokens: Tensor) -> Tensor:
    """The slow and obvious way."""
    return nn.functional.normalize(model.encode_text(tokens, normalize=False).float(), dim=-1)


@pytest.fixture(scope="session", params=CAUSAL)
def causal(request: pytest.FixtureRequest) -> tuple[Any, TextTower]:
    model = create(request.param)
    return model, TextTower(model)


def test_cutting_changes_nothing(causal: tuple[Any, TextTower]) -> None:
    """Up to one token below the context, with it, and with "!", whose id is that of padding."""
    model, tower = causal
    context = getattr(model, "text", model).context_length
    tokens = titles(model, [*LENGTHS, context - 1, context])
    tokens[1:3, 4:6] = 0
    expected = full_length(model, tokens)
    torch.testing.assert_close(
        expected, model.encode_text(tokens, normalize=True).detach(), rtol=0, atol=1e-6
    )
    assert tower.is_trimmed
    for num_short in (1, 3, 6, 7, 8):  # cut at 2, 20, 40, context - 1 and not at all
        found = tower.encode(tokens[:num_short])
        torch.testing.assert_close(found, expected[:num_short], rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-2  # titles are told apart at all


def test_a_title_does_not_depend_on_its_batch(causal: tuple[Any, TextTower]) -> None:
    """Shards are sorted by length and cut into batches of any size."""
    model, tower = causal
    tokens = titles(model, LENGTHS)
    together = tower.encode(tokens)
    torch.testing.assert_close(tower.encode(tokens.flip(0)).flip(0), together, rtol=0, atol=1e-5)
    alone = torch.cat([tower.encode(row) for row in tokens.split(1)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_a_batch_costs_what_its_longest_title_costs(causal: tuple[Any, TextTower]) -> None:
    """An equal result alone would not show that anything was cut. CoCa keeps one padding token."""
    model, tower = causal
    text = getattr(model, "text", model)
    widths = []
    hook = text.token_embedding.register_forward_hook(
        lambda module, args, output: widths.append(args[0].shape[1])
    )
    tower.encode(titles(model, [8, 20, 2]))
    tower.encode(titles(model, [2]))
    hook.remove()
    kept = 1 if isinstance(model, open_clip.CoCa) else 0
    assert widths == [20 + kept, 2 + kept]


@pytest.mark.parametrize("name", LOOKS_AT_PADDING)
def test_a_tower_that_looks_at_the_padding_is_not_cut(name: str) -> None:
    """SigLIP pools the last position, MobileCLIP2 attends to all of them."""
    model = create(name)
    tower = TextTower(model)
    tokens = titles(model, [2, 9, 20])
    assert not tower.is_trimmed
    torch.testing.assert_close(tower.encode(tokens), full_length(model, tokens), rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "pure_bf16"])
def test_bfloat16_weights_are_cut_within_their_rounding(precision: str) -> None:
    """As open_clip converts them: all but norms and embeddings, or everything."""
    model = create("ViT-S-32-alt", precision)
    exact = create("ViT-S-32-alt")
    tower = TextTower(model)
    tokens = titles(model, LENGTHS)
    found = tower.encode(tokens)
    assert tower.is_trimmed
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(LENGTHS)), rtol=0, atol=1e-6)
    assert (found * full_length(model, tokens)).sum(1).min() >= 0.9999
    error_cut = 1 - (found * full_length(exact, tokens)).sum(1)
    error_full = 1 - (full_length(model, tokens) * full_length(exact, tokens)).sum(1)
    assert error_cut.mean() <= 1.1 * error_full.mean()


def looks_ahead(model: Any) -> None:
    model.attn_mask.zero_()


def looks_one_token_ahead(model: Any) -> None:
    model.attn_mask.masked_fill_(torch.ones_like(model.attn_mask).tril(1) > 0, 0.0)


def pools_the_last_position(model: Any) -> None:
    model.text_pool_type = "last"


def has_no_position_table(model: Any) -> None:
    del model.positional_embedding
    model.encode_text = lambda tokens, normalize: model.token_embedding(tokens).mean(1)


@pytest.mark.parametrize(
    "break_it", [looks_ahead, looks_one_token_ahead, pools_the_last_position, has_no_position_table]
)
def test_a_broken_tower_is_not_cut(break_it: Callable[[Any], None]) -> None:
    """The check reads the weights and buffers in hand; a name promises nothing."""
    model = small()
    assert TextTower(model).is_trimmed
    break_it(model)
    tower = TextTower(model)
    tokens = titles(model, [2, 5, 9])
    assert not tower.is_trimmed
    torch.testing.assert_close(tower.encode(tokens), full_length(model, tokens), rtol=0, atol=1e-6)


def test_coca_with_padding_it_does_not_know_is_not_cut() -> None:
    """Its result then depends on every padding token."""
    model = small_coca()
    assert TextTower(model).is_trimmed
    model.text.pad_id = 299
    assert not TextTower(model).is_trimmed


def test_a_wrong_width_is_refused_by_open_clip() -> None:
    """Cut all the same, wider ids would shift CoCa's appended position without a word."""
    tower = TextTower(small_coca())
    wider = torch.cat([titles(small_coca(), [5]), torch.zeros(1, 1, dtype=torch.long)], 1)
    with pytest.raises(RuntimeError):
        tower.encode(wider)


def test_other_end_and_padding_tokens_are_cut_too() -> None:
    """The worldwide models: end token 2, which is not the highest id, and padding 1."""
    model = small(pool_type="eos", eos_id=2)
    tower = TextTower(model, pad_id=1)
    tokens = titles(model, [2, 9, 16, 5], pad_id=1, end_id=2)
    assert tower.is_trimmed
    assert tower.lengths(tokens).tolist() == [2, 9, 16, 5]
    for rows in (tokens, tokens[:2], tokens[3:]):
        torch.testing.assert_close(tower.encode(rows), full_length(model, rows), rtol=0, atol=1e-5)
    unaware = TextTower(model)
    assert unaware.lengths(tokens).tolist() == [16] * 4
    torch.testing.assert_close(unaware.encode(tokens), full_length(model, tokens))
    model.attn_mask[1:] = 0  # only the first token is kept from looking ahead
    assert not TextTower(model, pad_id=1).is_trimmed


def test_lengths_count_to_the_end_token() -> None:
    """With the real tokenizer, in which "!" has the id of padding."""
    texts = ["", "boots", "!!! sale !a! now !", "a ! b", "\U0001f45f", "boots " * 100]
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
    assert (tokens[2, : tokens[2].argmax()] == 0).any() or (tokens[3] == 0).any()
    lengths = TextTower(small()).lengths(tokens)
    assert lengths.tolist() == (tokens.argmax(1) + 1).tolist()
    assert lengths[[0, -1]].tolist() == [2, 77]


def test_threads_share_one_model() -> None:
    """The cut is made on a twin; a model changed for a moment would be seen by other batches."""
    model = small()
    tower = TextTower(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [titles(model, [length] * 4) for length in range(2, 17)] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tower.encode, batches))
    for batch, text_emb in zip(batches, found, strict=True):
        torch.testing.assert_close(text_emb, full_length(model, batch), rtol=0, atol=1e-5)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert model.attn_mask.shape == (16, 16)
