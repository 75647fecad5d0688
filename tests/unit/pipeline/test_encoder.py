"""Real open_clip models, small and local: resolving, loading, encoding, refusing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import encoder as encoder_module
from pipeline import self_checks
from pipeline.encoder import BUNDLED_MODEL, MAX_TITLE_CHARS, Encoder, load_encoder, resolve
from pipeline.pictures import to_input
from schemas.errors import ConfigError, EncoderError
from schemas.plan import EncoderSpec

TITLES = ["Acme Boots, brown", "", "\U0001f45f sneaker", "rain boots  size 9"]


@pytest.fixture(scope="session")
def spec(small_model: Path) -> EncoderSpec:
    return resolve(f"local-dir:{small_model}", "")


@pytest.fixture(scope="session")
def encoder(spec: EncoderSpec) -> Encoder:
    return load_encoder(spec, "cpu", "float32")


def embed_images(encoder: Encoder, pixels: np.ndarray) -> np.ndarray:
    (found,) = encoder.encode_images([pixels])
    return found


def embed_texts(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return encoder.encode_texts(texts, batch_size=3)


def picture(seed: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


def test_embeddings_are_open_clips_own(small_model: Path, encoder: Encoder) -> None:
    """The slow and obvious way: open_clip's model, transform and tokenizer, one by one."""
    name = f"local-dir:{small_model}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    images = [picture(seed) for seed in range(3)]
    with torch.inference_mode():
        expected = model.encode_image(torch.stack([transform(each) for each in images]))
        expected_text = model.encode_text(open_clip.get_tokenizer(name)(TITLES))
    found = embed_images(
        encoder, np.stack([to_input(each, encoder.spec.preprocess) for each in images])
    )
    unit = torch.nn.functional.normalize(expected, dim=-1).numpy()
    np.testing.assert_allclose(found, unit, atol=1e-5)
    unit_text = torch.nn.functional.normalize(expected_text, dim=-1).numpy()
    np.testing.assert_allclose(embed_texts(encoder, TITLES), unit_text, atol=1e-5)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_preprocessing_is_open_clips_own(
    spec: EncoderSpec, resize_mode: str, interpolation: str, size: tuple[int, int]
) -> None:
    """Pixel for pixel, before normalization, in each of its modes, for pictures of any shape."""
    preprocess = replace(
        spec.preprocess,
        resize_mode=resize_mode,
        interpolation=interpolation,
        size=size,
        fill_color=9,
    )
    transform = open_clip.transform.image_transform(
        preprocess.size,
        is_train=False,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill_color=9,
    )
    shapes = [
        (50, 40),
        (41, 97),
        (10, 7),
        (32, 32),
        (33, 32),
        (24, 40),
        (1, 1),
        (300, 5),
        (500, 333),
    ]
    for seed, shape in enumerate(shapes):
        image = picture(seed, shape)
        expected = transform(image).permute(1, 2, 0).numpy() * 255
    np.testing.assert_array_equal(to_input(image, preprocess), expected.round().astype(np.uint8))


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(encoder: Encoder) -> None:
    """Cosines are inner products from here on."""
    pixels = np.stack([to_input(picture(seed), encoder.spec.preprocess) for seed in range(5)])
    together = embed_images(encoder, pixels)
    alone = np.concatenate(list(encoder.encode_images(pixels[i : i + 1] for i in range(5))))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert together.dtype == np.float32


def test_titles_come_back_in_their_own_order(encoder: Encoder) -> None:
    """They are sorted by length for speed, in batches of any size; nobody may notice."""
    titles = [" ".join(["boots"] * (7 * i % 11)) + f" {i}" for i in range(20)]
    alone = np.concatenate([embed_texts(encoder, [title]) for title in titles])
    for batch_size in (1, 3, 50):
        np.testing.assert_allclose(encoder.encode_texts(titles, batch_size), alone, atol=1e-5)
        parts = [encoder.tokenize(part) for part in (titles[:7], titles[7:8], titles[8:])]
        np.testing.assert_allclose(encoder.encode_tokens(parts, batch_size), alone, atol=1e-5)
    assert encoder.encode_texts([], 3).shape == (0, 24)


def test_bfloat16_is_taken_where_it_gives_the_same_embeddings(
    spec: EncoderSpec, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hardware decides the speed, not the result; the commit says which it was."""
    monkeypatch.setattr(encoder_module, "has_bfloat16", lambda device: True)
    low = load_encoder(spec, "cpu")
    assert low.compute_dtype == "bfloat16"
    pixels = np.stack([to_input(picture(seed), spec.preprocess) for seed in range(5)])
    pairs = [
        (embed_images(low, pixels), embed_images(encoder, pixels)),
        (embed_texts(low, TITLES), embed_texts(encoder, TITLES)),
    ]
    for found, expected in pairs:
        assert (found * expected).sum(axis=1).min() > 0.999
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    monkeypatch.setattr(self_checks, "MIN_COSINE", 1.1)
    assert load_encoder(spec, "cpu").compute_dtype == "float32"
    assert load_encoder(spec, "cpu", "bfloat16").compute_dtype == "bfloat16"
    monkeypatch.setattr(encoder_module, "has_bfloat16", lambda device: False)
    assert load_encoder(spec, "cpu").compute_dtype == "float32"


def test_a_huge_title_is_cut_not_chewed(encoder: Encoder) -> None:
    """One word of 100 kB would take the tokenizer minutes."""
    words = "boots " * 20_000
    short = "boots " * 30
    np.testing.assert_array_equal(embed_texts(encoder, [words]), embed_texts(encoder, [short]))
    assert np.isfinite(embed_texts(encoder, ["x" * 100_000])).all()
    assert MAX_TITLE_CHARS > 20 * 77


def test_resolving_again_gives_the_same_spec(small_model: Path, spec: EncoderSpec) -> None:
    """The plan is compared field by field; nothing in it may depend on the moment."""
    assert resolve(f"local-dir:{small_model}", "") == spec
    assert spec.preprocess.mean == (0.5, 0.5, 0.5)
    assert spec.embed_dim == 24
    assert "context 16" in spec.tokenizer


def test_a_plan_loads_where_the_model_registry_does_not_know_the_model(spec: EncoderSpec) -> None:
    """The architecture travels in the plan, so a node needs the weights' file and no more."""
    assert spec.architecture["vision_cfg"]["width"] == 32
    moved = replace(spec, model="hf-hub:somebody/something")
    assert embed_texts(load_encoder(moved, "cpu"), ["x"]).shape == (1, 24)


def test_changed_weights_are_refused(tmp_path: Path, small_model: Path) -> None:
    """Half a cache from one checkpoint and half from another would look whole."""
    folder = tmp_path / "model"
    shutil.copytree(small_model, folder)
    spec = resolve(f"local-dir:{folder}", "")
    state = load_file(folder / "open_clip_model.safetensors")
    state["logit_scale"] += 1
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(EncoderError, match="sha256") as caught:
        load_encoder(spec, "cpu")
    assert caught.value.where == spec.weights_path
    Path(spec.weights_path).unlink()
    with pytest.raises(EncoderError, match="gone"):
        load_encoder(spec, "cpu")


@pytest.fixture(scope="session")
def bundled_state() -> dict[str, torch.Tensor]:
    config = json.loads(Path(f"pipeline/demo/{BUNDLED_MODEL}.json").read_text())
    torch.manual_seed(3)
    return open_clip.CLIP(**config).state_dict()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "wrapped.pt"])
def test_a_local_checkpoint_loads(
    tmp_path: Path, bundled_state: dict[str, torch.Tensor], name: str
) -> None:
    """Fine-tuned weights come as safetensors or as what torch.save wrote of a state dict."""
    path = tmp_path / name
    if name == "model.safetensors":
        save_file({key: value.contiguous() for key, value in bundled_state.items()}, path)
    else:
        torch.save(
            {"state_dict": bundled_state, "epoch": 3} if "wrapped" in name else bundled_state, path
        )
    encoder = load_encoder(resolve(BUNDLED_MODEL, str(path)), "cpu", "float32")
    np.testing.assert_array_equal(
        encoder._model.state_dict()["positional_embedding"], bundled_state["positional_embedding"]
    )


class Danger:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("/tmp/shelfwise-was-here", "w"))


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    """A checkpoint from the internet is data, never a program."""
    marker = Path("/tmp/shelfwise-was-here")
    marker.unlink(missing_ok=True)
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Danger()}, path)
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(resolve(BUNDLED_MODEL, str(path)), "cpu")
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_broken_checkpoint_is_one_clear_error(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    """Truncated downloads are common."""
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(EncoderError) as caught:
        load_encoder(resolve(BUNDLED_MODEL, str(path)), "cpu")
    assert caught.value.where == str(path)


def test_weights_of_another_model_are_refused(small_model: Path) -> None:
    """Shapes that do not fit must not be skipped."""
    path = small_model / "open_clip_model.safetensors"
    with pytest.raises(EncoderError, match="cannot be loaded into shelfwise-tiny"):
        load_encoder(resolve(BUNDLED_MODEL, str(path)), "cpu")


def test_random_weights_come_only_when_asked_for_by_name() -> None:
    """open_clip alone would warn and go on with random weights."""
    with pytest.raises(EncoderError, match="no weights given for RN50") as caught:
        resolve("RN50", "")
    assert "openai" in caught.value.fix
    assert "random" in caught.value.fix
    first, second = (load_encoder(resolve(BUNDLED_MODEL, "random"), "cpu") for _ in range(2))
    np.testing.assert_array_equal(embed_texts(first, ["x"]), embed_texts(second, ["x"]))


@pytest.mark.parametrize(
    ("model", "pretrained", "problem"),
    [
        ("ViT-B-33", "openai", "nearest names: .*ViT-B-32"),
        ("ViT-B-32", "opnai", "neither a tag nor a file"),
        ("ViT-B-32", "missing/weights.safetensors", "neither a tag nor a file"),
        ("local-dir:/nowhere", "", "no readable open_clip_config.json"),
        ("hf-hub:not a name", "", "not a hub repository name"),
        ("hf-hub:org/model", "openai", "carries its own weights"),
    ],
)
def test_a_wrong_name_lists_the_right_ones(model: str, pretrained: str, problem: str) -> None:
    """In seconds, without asking the network."""
    with pytest.raises(EncoderError, match=problem):
        resolve(model, pretrained)


@pytest.mark.parametrize(
    ("model", "pretrained"), [("ViT-B-32", "openai"), ("hf-hub:shelfwise/absent", "")]
)
def test_weights_out_of_reach_are_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, pretrained: str
) -> None:
    """A node without network: neither a stack trace nor a hang."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match="not cached here") as caught:
        resolve(model, pretrained)
    assert "machine with network" in caught.value.fix


def test_a_cached_hub_model_resolves_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_model: Path
) -> None:
    """Planned where the hub was reachable once, planned again where it is not."""
    snapshot = tmp_path / "models--org--small" / "snapshots" / "abc"
    shutil.copytree(small_model, snapshot)
    refs = tmp_path / "models--org--small" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    found = resolve("hf-hub:org/small", "")
    assert found.embed_dim == 24
    assert embed_texts(load_encoder(found, "cpu"), ["x"]).shape == (1, 24)


def test_openai_weights_get_their_quick_gelu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With ViT-B-32 and the tag openai, open_clip warns and computes with the wrong activation."""
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"x")
    monkeypatch.setattr("pipeline.encoder._from_tag", lambda tag, shown: weights)
    assert resolve("ViT-B-32", "openai").architecture["quick_gelu"] is True
    assert "quick_gelu" not in resolve("ViT-B-32", "laion2b_s34b_b79k").architecture


def test_an_unknown_device_is_refused(spec: EncoderSpec) -> None:
    """Before minutes are spent on loading."""
    with pytest.raises(ConfigError) as caught:
        load_encoder(spec, "abacus")
    assert caught.value.where == "--device"
