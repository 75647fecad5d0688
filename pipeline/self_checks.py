"""Ways to run an encoder faster, each taken only where made-up inputs come out the same.

Takes a loaded encoder, embeds a few made-up pictures and titles both ways, keeps the faster way if
their cosines are high enough. Costs about a second at load time. Writes nothing.

B batch, D embedding width.
"""

import io
import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import nn

from pipeline.attention import pack_attention, unpack_attention
from pipeline.decode_pool import JpegDecoder
from pipeline.device_jpeg import DeviceJpegs, is_supported
from pipeline.pictures import load

if TYPE_CHECKING:
    from pipeline.encoder import Encoder

logger = logging.getLogger(__name__)

MIN_COSINE = 0.999  # what may differ between machines: bfloat16, the decoder
_MIN_COSINE_PACKED = 0.9999
_SIZES = ((640, 480), (333, 500), (1000, 1000))


def use_packed_attention(encoder: "Encoder", model: nn.Module) -> None:
    """Give the encoder's model `PackedAttention`, if it gives the same embeddings."""
    before = _probe(encoder)
    pack_attention(model)
    if _lowest_cosine(before, _probe(encoder)) < _MIN_COSINE_PACKED:
        unpack_attention(model)


def choose_low_precision(encoder: "Encoder", low: "Encoder", *, is_forced: bool) -> "Encoder":
    """Return the same encoder with bfloat16 weights, if it gives the same embeddings."""
    cosine = _lowest_cosine(_probe(encoder), _probe(low))
    if cosine >= MIN_COSINE or is_forced:
        logger.info("encoder runs in bfloat16 (cosine to float32: %.5f)", cosine)
        return low
    logger.info("encoder runs in float32: bfloat16 gives only cosine %.5f", cosine)
    return encoder


def device_jpegs(encoder: "Encoder", device: torch.device) -> JpegDecoder | None:
    """Return a device's decoder of JPEGs, if embeddings of what it decodes are the same.

    None where pictures are resized in a rare way, where torchcodec is absent or does not work.
    """
    preprocess = encoder.spec.preprocess
    if not is_supported(preprocess):
        return None
    pictures = [_made_up_jpeg(*size, seed) for seed, size in enumerate(_SIZES)]
    is_scaled = encoder.spec.decode == "scaled"
    expected = np.stack([load(picture, preprocess, is_scaled=is_scaled) for picture in pictures])
    try:
        jpegs = DeviceJpegs(preprocess, device)
        found = jpegs.decode(pictures)
    except (ImportError, OSError, RuntimeError) as error:
        logger.info("JPEGs are decoded by Pillow, not on %s: %s", device, error)
        return None
    (before, after) = encoder.encode_images([expected, found])
    cosine = _lowest_cosine([before], [after])
    if cosine < MIN_COSINE:
        logger.info("JPEGs are decoded by Pillow: %s gives only cosine %.5f", device, cosine)
        return None
    logger.info("JPEGs are decoded on %s (cosine to Pillow: %.5f)", device, cosine)
    return jpegs


def _probe(encoder: "Encoder") -> list[Float32[np.ndarray, "B D"]]:
    """Embed a few made-up pictures and titles."""
    height, width = encoder.spec.preprocess.size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 4, 4, 3), np.uint8)  # patches of color, as pictures have
    pixels = coarse.repeat(-(-height // 4), axis=1).repeat(-(-width // 4), axis=2)
    titles = ["", "boots", "Acme Men's Leather Boots, Brown, Size 10", "a photo of " + "tea " * 40]
    (image_emb,) = encoder.encode_images([np.ascontiguousarray(pixels[:, :height, :width])])
    return [image_emb, encoder.encode_texts(titles, len(titles))]


def _lowest_cosine(
    before: list[Float32[np.ndarray, "B D"]], after: list[Float32[np.ndarray, "B D"]]
) -> float:
    pairs = zip(before, after, strict=True)
    return min(float((one * other).sum(axis=1).min()) for one, other in pairs)


def _made_up_jpeg(width: int, height: int, seed: int) -> bytes:
    """Return smooth colors with edges, encoded as shops encode: 4:2:0, quality 90."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    patch = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
    image.paste(patch.resize((width // 3, height // 3), Image.Resampling.NEAREST), (width // 4, 9))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
