"""Frozen CLIP encoders: pictures and texts in, unit-length embeddings out.

`resolve` finds a model's weights once, at plan time, and writes down everything that loading
needs; `load_encoder` then works without network. The only importer of open_clip.

B batch, D embedding width, L tokens in a row.
"""

import copy
import difflib
import hashlib
import json
import logging
import os
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from jaxtyping import Float32, Int64, UInt8
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import (
    download_pretrained_from_hf,
    download_pretrained_from_url,
    get_pretrained_cfg,
)
from open_clip.transform import PreprocessCfg
from torch import Tensor

from pipeline.decode_pool import JpegDecoder
from pipeline.device import Staging, has_bfloat16, pick_device
from pipeline.self_checks import choose_low_precision, device_jpegs, use_packed_attention
from pipeline.text_tower import TextTower
from schemas.configs import digest
from schemas.errors import EncoderError
from schemas.plan import EncoderSpec, Preprocess

logger = logging.getLogger(__name__)

BUNDLED_MODEL = "shelfwise-tiny"
RANDOM = "random"
# Tokens beyond the context length (77) are dropped anyway. Cutting the text first keeps a 100 kB
# title from taking minutes in the tokenizer, whose time grows with a word's length squared.
MAX_TITLE_CHARS = 2000
_BUNDLED_FOLDER = Path(__file__).parent / "demo"
_SCHEMAS = ("hf-hub:", "local-dir:")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
_PROBE_SECONDS = 5.0
# More at a time leave a CPU's caches: of ViT-B-32 in bfloat16 203 titles/s, at 256 only 137.
_CPU_TITLES = 32


class Encoder:
    """A loaded, frozen two-tower model."""

    def __init__(self, spec: EncoderSpec, model: Any, device: torch.device) -> None:
        """Wrap an open_clip model; use `load_encoder`."""
        self.spec, self.device = spec, device
        self.compute_dtype = str(_dtype(model)).removeprefix("torch.")
        self.jpegs: JpegDecoder | None = None
        """Decodes plain JPEGs on the device, where that changes nothing."""
        self._model = model
        self._tokenize = _tokenizer(spec)
        self._text_tower = TextTower(model, pad_id=_pad_id(self._tokenize))
        self._staging = Staging(device)
        channels = (1, 3, 1, 1)
        self._mean = torch.tensor(spec.preprocess.mean, device=device).view(channels)
        self._std = torch.tensor(spec.preprocess.std, device=device).view(channels)

    @torch.inference_mode()
    def encode_images(
        self, batches: Iterable[UInt8[np.ndarray, "B H W 3"]]
    ) -> Iterator[Float32[np.ndarray, "B D"]]:
        """Yield the unit-length embeddings of batches of decoded pictures, in order.

        A batch need be valid only until the next one is asked for. On a GPU some are in flight:
        while one is computed, the next is decoded and copied.
        """
        yield from self._staging.map(self._image_tower, batches)

    def _image_tower(self, pixels: UInt8[Tensor, "B H W 3"]) -> Float32[Tensor, "B D"]:
        batch = pixels.permute(0, 3, 1, 2).float()  # channels_last, without a copy
        batch = ((batch / 255 - self._mean) / self._std).to(_dtype(self._model))
        image_emb = self._model.encode_image(batch, normalize=False)
        return F.normalize(image_emb.float(), dim=-1)

    def encode_texts(self, texts: Sequence[str], batch_size: int) -> Float32[np.ndarray, "n D"]:
        """Return the unit-length embeddings of titles or label texts."""
        return self.encode_tokens([self.tokenize(texts)] if texts else [], batch_size)

    def tokenize(self, texts: Sequence[str]) -> Int64[Tensor, "n L"]:
        """Return token ids, on the CPU: 0.1 ms a title, in whichever thread calls."""
        return self._tokenize([" ".join(text.split())[:MAX_TITLE_CHARS] for text in texts])

    @torch.inference_mode()
    def encode_tokens(
        self, parts: Sequence[Int64[Tensor, "_ L"]], batch_size: int
    ) -> Float32[np.ndarray, "n D"]:
        """Return the unit-length embeddings of tokenized texts, n in all parts together.

        Sorted by length, so that a batch holds titles of about one length.
        """
        if not sum(map(len, parts)):
            return np.empty((0, self.spec.embed_dim), np.float32)
        if self.device.type == "cpu":
            batch_size = min(batch_size, _CPU_TITLES)
        tokens = torch.cat(list(parts))
        order = self._text_tower.lengths(tokens).argsort(stable=True)
        found = [self._text_tower.encode(tokens[rows]).cpu() for rows in order.split(batch_size)]
        text_emb = torch.empty(len(tokens), self.spec.embed_dim)
        text_emb[order] = torch.cat(found)
        return text_emb.numpy()

    def in_bfloat16(self) -> "Encoder":
        """Return the same encoder with its weights cast to bfloat16, once.

        Autocast would cast them again at every call: 19.8 images/s against 67 for ViT-B-32.
        """
        return Encoder(self.spec, copy.deepcopy(self._model).to(torch.bfloat16), self.device)

    def items_per_second(self, batch_size: int = 32) -> float:
        """Time both towers on one made-up batch, after one to warm up."""
        height, width = self.spec.preprocess.size
        pixels = np.zeros((batch_size, height, width, 3), np.uint8)
        titles = ["Acme Men's Leather Boots, Brown, Size 10"] * batch_size
        for _ in range(2):
            started = time.perf_counter()
            list(self.encode_images([pixels]))
            self.encode_texts(titles, batch_size)
            seconds = time.perf_counter() - started
        return batch_size / seconds


def resolve(model: str, pretrained: str) -> EncoderSpec:
    """Find a model's configuration and weights, downloading them where they are not cached.

    Args:
        model: an open_clip name, `hf-hub:org/name`, `local-dir:folder` or `shelfwise-tiny`.
        pretrained: a tag of that model, a checkpoint file, or `random`; empty for the bundled
            model and where the model name carries its weights.
    Raises: EncoderError if a name is unknown, weights are out of reach or not readable.
    """
    weights: Path | None
    if model.startswith(_SCHEMAS):
        if pretrained:
            raise EncoderError(
                f"--pretrained {pretrained!r} has no meaning: {model} carries its own weights",
                where="--pretrained",
                fix="leave --pretrained out",
            )
        config, weights = _from_hub(model) if model.startswith("hf-hub:") else _from_folder(model)
        architecture, overlay = config["model_cfg"], config.get("preprocess_cfg", {})
    else:
        architecture = _architecture(model)
        weights, overlay = _weights(model, pretrained)
        if overlay.get("quick_gelu"):
            # open_clip only warns here, and a GELU that the weights were not trained with
            # shifts every embedding. Seen with ViT-B-32 and the tag openai.
            architecture["quick_gelu"] = True
    preprocess = _preprocess(architecture, overlay)
    spec = EncoderSpec(
        model=model,
        pretrained=pretrained,
        weights_path=str(weights.resolve()) if weights else "",
        weights_sha256=_sha256(weights) if weights else digest(["random", model, architecture]),
        architecture=architecture,
        preprocess=preprocess,
        tokenizer="",
        embed_dim=int(architecture["embed_dim"]),
    )
    tokenizer = _tokenizer(spec)
    name = f"{type(tokenizer).__name__}, context {getattr(tokenizer, 'context_length', None)}"
    return replace(spec, tokenizer=name)


def load_encoder(spec: EncoderSpec, device: str = "auto", compute_dtype: str = "auto") -> Encoder:
    """Load a planned encoder, in evaluation mode.

    Args:
        spec: of the encoder.
        device: where it is to run.
        compute_dtype: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware has it and
            made-up inputs come out as in float32 (cosine 0.999 and more).
    Raises: EncoderError if the checkpoint is gone, has another sha256 or does not fit the model.
    """
    where = spec.weights_path or spec.model
    if spec.pretrained != RANDOM:
        path = Path(spec.weights_path)
        if not path.is_file():
            raise EncoderError(
                "the planned checkpoint is gone",
                where=where,
                fix="put it back, or run `python cli.py plan ... --force`",
            )
        if (found := _sha256(path)) != spec.weights_sha256:
            raise EncoderError(
                f"checkpoint has sha256 {found[:16]}, plan says {spec.weights_sha256[:16]}",
                where=where,
                fix="restore the planned file, or plan again in a new workspace",
            )
    chosen = pick_device(device)
    name = _register(spec.architecture)
    torch.manual_seed(0)  # what `random` weights are made from
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model(
                name,
                pretrained=spec.weights_path or None,
                device=chosen,
                require_pretrained=spec.pretrained != RANDOM,
                weights_only=True,
            )
    except Exception as error:  # a foreign file can make open_clip and torch raise anything
        reason = " ".join(str(error).split())[:300]
        raise EncoderError(
            f"checkpoint cannot be loaded into {spec.model}: {reason}",
            where=where,
            fix="give a state dict of exactly this model, as safetensors or a torch file "
            "without pickled code",
        ) from error
    model.eval().requires_grad_(False)
    # Pictures come as [B, H, W, 3]: convolutions read them so without a copy (1.6x here).
    model.visual.to(memory_format=torch.channels_last)
    encoder = Encoder(spec, model, chosen)
    use_packed_attention(encoder, model)
    if compute_dtype == "bfloat16" or (compute_dtype == "auto" and has_bfloat16(chosen)):
        is_forced = compute_dtype == "bfloat16"
        encoder = choose_low_precision(encoder, encoder.in_bfloat16(), is_forced=is_forced)
    if chosen.type == "cuda":
        encoder.jpegs = device_jpegs(encoder, chosen)
    return encoder


def find_weights(spec: EncoderSpec, weights: str | None = None) -> EncoderSpec:
    """Return a planned encoder with its checkpoint where it is on this machine.

    Args:
        spec: planned here or elsewhere.
        weights: where the checkpoint is; None looks where it was planned, then where `resolve`
            finds it by the model's name.
    Raises: EncoderError if it is out of reach. Whether it is the planned one, `load_encoder` tells.
    """
    if weights is not None:
        if not Path(weights).is_file():
            raise EncoderError("no such file", where=weights, fix="name the checkpoint's file")
        return replace(spec, weights_path=str(Path(weights).resolve()))
    if spec.pretrained == RANDOM or Path(spec.weights_path).is_file():
        return spec
    try:
        return replace(spec, weights_path=resolve(spec.model, spec.pretrained).weights_path)
    except EncoderError as error:
        raise EncoderError(
            f"the checkpoint of {spec.model} is not here: {error.what}",
            where=spec.weights_path,
            fix="put it there, or name a copy of it where the command takes --weights",
        ) from error


def _dtype(model: Any) -> torch.dtype:
    return next(model.visual.parameters()).dtype


def _register(architecture: dict[str, Any]) -> str:
    """Make open_clip know an architecture; return the name it has there."""
    name = f"shelfwise-{digest(architecture)[:16]}"
    if name not in open_clip.list_models():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps(architecture), encoding="utf-8")
            open_clip.add_model_config(path)
    return name


def _tokenizer(spec: EncoderSpec) -> Callable[[list[str]], Tensor]:
    is_folder = spec.model.startswith("local-dir:")
    name = spec.model if is_folder else _register(spec.architecture)
    try:
        return open_clip.get_tokenizer(name)
    except Exception as error:  # as above, and transformers may be missing
        raise EncoderError(
            f"tokenizer cannot be loaded: {' '.join(str(error).split())[:300]}",
            where=spec.model,
            fix="run where the tokenizer's files are cached; models with Hugging Face tokenizers "
            "also need `pip install transformers`",
        ) from error


def _pad_id(tokenizer: Any) -> int:
    """Return what a tokenizer fills rows with: 0, but where it comes from transformers."""
    inner = getattr(tokenizer, "tokenizer", None)
    return getattr(inner, "pad_token_id", None) or 0


def _architecture(model: str) -> dict[str, Any]:
    if model == BUNDLED_MODEL:
        text = (_BUNDLED_FOLDER / f"{BUNDLED_MODEL}.json").read_text(encoding="utf-8")
        return json.loads(text)
    config = open_clip.get_model_config(model)
    if config is None:
        known = [BUNDLED_MODEL, *open_clip.list_models()]
        near = difflib.get_close_matches(model, known, n=5, cutoff=0.0)
        raise EncoderError(
            f"unknown model {model!r}; nearest names: {', '.join(near)}",
            where="--model",
            fix="use an open_clip name, hf-hub:org/name, local-dir:folder or shelfwise-tiny",
        )
    return config


def _weights(model: str, pretrained: str) -> tuple[Path | None, dict[str, Any]]:
    """Return the checkpoint of a built-in model and what its tag says of preprocessing."""
    if pretrained == RANDOM:
        return None, {}
    if not pretrained and model == BUNDLED_MODEL:
        return _BUNDLED_FOLDER / f"{BUNDLED_MODEL}.safetensors", {}
    tag = get_pretrained_cfg(model, pretrained) if pretrained else None
    if tag:
        return _from_tag(tag, f"{model} {pretrained}"), tag
    path = Path(pretrained)
    if pretrained and path.is_file():
        if path.suffix not in _SUFFIXES:
            raise EncoderError(
                f"unknown checkpoint type {path.suffix!r}, expected {', '.join(_SUFFIXES)}",
                where=str(path),
                fix="save the state dict as safetensors",
            )
        return path, {}
    tags = open_clip.list_pretrained_tags_by_model(model)
    raise EncoderError(
        f"{model} has no weights {pretrained!r}: neither a tag nor a file"
        if pretrained
        else f"no weights given for {model}",
        where="--pretrained",
        fix=f"use a checkpoint file, `random`, or a tag: {', '.join(tags) or 'it has none'}",
    )


def _from_tag(tag: dict[str, Any], shown: str) -> Path:
    if tag.get("hf_hub"):
        repo, filename = os.path.split(tag["hf_hub"])
        return _hub_file(repo, filename or HF_WEIGHTS_NAME, shown)
    url = tag["url"]
    cached = Path("~/.cache/clip").expanduser() / Path(url).name
    if not cached.is_file():
        _check_reachable(url, shown)
    try:
        return Path(download_pretrained_from_url(url))
    except (OSError, RuntimeError) as error:
        raise _out_of_reach(shown, url, error) from error


def _from_hub(model: str) -> tuple[dict[str, Any], Path]:
    repo = model.removeprefix("hf-hub:")
    return _config(_hub_file(repo, HF_CONFIG_NAME, model)), _hub_file(repo, HF_WEIGHTS_NAME, model)


def _from_folder(model: str) -> tuple[dict[str, Any], Path]:
    folder = Path(model.removeprefix("local-dir:"))
    weights = [
        folder / name
        for name in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
        if (folder / name).is_file()
    ]
    config = _config(folder / HF_CONFIG_NAME)
    if not weights:
        raise EncoderError(
            f"neither {HF_SAFE_WEIGHTS_NAME} nor {HF_WEIGHTS_NAME}",
            where=str(folder),
            fix="put the weights beside the config under one of these names",
        )
    return config, weights[0]


def _config(path: Path) -> dict[str, Any]:
    """Read the config of a model that open_clip saved."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        for name in ("embed_dim", "vision_cfg", "text_cfg"):
            config["model_cfg"][name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"no readable {HF_CONFIG_NAME} with a model_cfg ({error})",
            where=str(path),
            fix="use a folder or repository that open_clip saved",
        ) from error
    return dict(config)


def _hub_file(repo: str, filename: str, shown: str) -> Path:
    """Return a file of a hub repository from the local cache, else download it."""
    names = [HF_SAFE_WEIGHTS_NAME, filename] if filename == HF_WEIGHTS_NAME else [filename]
    if filename.endswith((".bin", ".pth")) and filename != HF_WEIGHTS_NAME:
        names.insert(0, f"{filename[:-4]}.safetensors")
    try:
        for name in names:
            cached = try_to_load_from_cache(repo, name)
            if isinstance(cached, str):
                return Path(cached)
        url = hf_hub_url(repo, names[-1])
    except (HFValidationError, ValueError) as error:
        raise EncoderError(
            f"{repo!r} is not a hub repository name",
            where="--model",
            fix="write it as hf-hub:organization/name",
        ) from error
    _check_reachable(url, shown)
    try:
        return Path(download_pretrained_from_hf(repo, filename=filename))
    except (OSError, RuntimeError) as error:
        raise _out_of_reach(shown, url, error) from error


def _check_reachable(url: str, shown: str) -> None:
    """Ask for the file's headers, so that a node without network fails in seconds.

    A server that answers at all, even with "not found", is left to the real download.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        raise _out_of_reach(shown, url, OSError("HF_HUB_OFFLINE is set"))
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return  # the server is there; whether it has the file, the download will tell
    except OSError as error:
        raise _out_of_reach(shown, url, error) from error


def _out_of_reach(shown: str, url: str, error: Exception) -> EncoderError:
    return EncoderError(
        f"weights of {shown} are not cached here and cannot be downloaded: {error}",
        where=url,
        fix="plan once on a machine with network (the plan keeps the resolved file), "
        "or pass a checkpoint file with --pretrained",
    )


def _preprocess(architecture: dict[str, Any], overlay: dict[str, Any]) -> Preprocess:
    base = PreprocessCfg()
    chosen = {
        name: overlay.get(name, getattr(base, name))
        for name in ("mean", "std", "interpolation", "resize_mode", "fill_color")
    }
    size = architecture["vision_cfg"].get("image_size", base.size)
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocess(
        size=(height, width),
        mean=tuple(map(float, chosen["mean"])),  # type: ignore[arg-type]
        std=tuple(map(float, chosen["std"])),  # type: ignore[arg-type]
        interpolation=chosen["interpolation"],
        resize_mode=chosen["resize_mode"],
        fill_color=int(chosen["fill_color"]),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
