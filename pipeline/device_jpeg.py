"""Decode plain JPEGs on a GPU, a task at a time: nvJPEG, through torchcodec.

Takes the encoded files of pictures, gives the encoder's input pixels. Plain is what no two decoders
read differently: a whole, upright, 8-bit YCbCr baseline file of common size; everything else stays
with Pillow, which also finds the reasons of bad files. Decoded at full size, so pixels differ a
little from those of `plan --decode scaled`; `self_checks.py` compares the embeddings before this is
used, and the commit says which decoder made a shard.

B pictures, H, W height and width in pixels.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from PIL import ExifTags, Image
from torch import Tensor

from pipeline.pictures import MAX_ASPECT
from schemas.plan import Preprocess

MAX_PIXELS = 16_000_000  # a task of them takes 770 MB of the device
_START, _END = b"\xff\xd8", b"\xff\xd9"
_BASELINE = 0xC0
_APP1, _ADOBE = 0xE1, 0xEE
_YCBCR = 1


class DeviceJpegs:
    """The decoder of one device."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        """Load torchcodec.

        Args:
            preprocess: size and resize mode of the encoder's input, for which `is_supported`.
            device: where to decode; a CPU decodes with libjpeg, which is of use in tests.
        Raises: ImportError if torchcodec is absent; RuntimeError if its libraries do not load.
        """
        from torchcodec import decoders  # may be absent, or not fit the installed torch

        self._decode = decoders.decode_jpeg  # type: ignore[attr-defined]
        self._preprocess, self._device = preprocess, device
        # Of its own, or each task would wait for the encoder's batches under way.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def takes(self, picture: bytes) -> bool:
        """Say whether a picture is plain."""
        return is_plain(picture)

    @torch.inference_mode()
    def decode(self, pictures: list[bytes]) -> UInt8[np.ndarray, "B H W 3"]:
        """Decode pictures that are all plain.

        Raises: RuntimeError if the decoder refuses one of them.
        """
        height, width = self._preprocess.size
        with torch.cuda.stream(self._stream):
            decoded = self._decode(pictures, mode="RGB", device=self._device)
            inputs = torch.empty(len(pictures), 3, height, width, device=self._device)
            for place, pixels in zip(inputs, decoded, strict=True):
                place.copy_(self._to_input(pixels))
            inputs = inputs.round_().clamp_(0, 255).byte()  # bicubic overshoots
            return inputs.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _to_input(self, pixels: UInt8[Tensor, "3 h w"]) -> Float32[Tensor, "3 H W"]:
        """Do as `pictures.to_input`; a resize with antialias follows Pillow's."""
        height, width = self._preprocess.size
        if self._preprocess.resize_mode == "squash":
            size = [height, width]
        else:
            short = min(pixels.shape[1:])
            size = [int(height * side / short) for side in pixels.shape[1:]]
        (resized,) = F.interpolate(
            pixels[None].float(), size, mode=self._preprocess.interpolation, antialias=True
        )
        top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
        return resized[:, top : top + height, left : left + width]


def is_supported(preprocess: Preprocess) -> bool:
    """Say whether pictures are resized in one of the two common ways."""
    height, width = preprocess.size
    mode = preprocess.resize_mode
    if preprocess.interpolation not in ("bilinear", "bicubic"):
        return False
    return mode == "squash" or (mode == "shortest" and height == width)


def is_plain(data: bytes) -> bool:
    """Say whether every decoder reads a file the same way, from its headers and its end alone.

    A look at all bytes takes 0.3 ms of a picture of 500 kB, in the thread that feeds the encoder.
    Progressive files would need it: their scans are to be counted.
    """
    if not (data.startswith(_START) and data.endswith(_END)):
        return False
    place = len(_START)
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        if marker == _BASELINE:
            return _is_common_frame(segment)
        if marker == _APP1 and not _is_upright(segment):
            return False
        if marker == _ADOBE and segment[11:12] != bytes([_YCBCR]):
            return False
        if not (0xE0 <= marker <= 0xEF or marker in (0xDB, 0xC4, 0xDD, 0xFE)):
            return False  # neither tables nor a comment
        place += 2 + length
    return False


def _is_common_frame(segment: bytes) -> bool:
    if len(segment) < 15 or segment[0] != 8 or segment[5] != 3:
        return False
    height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
    names = segment[6::3][:3]  # R, G and B would mean other colors
    long, short = max(height, width), min(height, width)
    return names == b"\1\2\3" and 0 < long <= MAX_ASPECT * short and long * short <= MAX_PIXELS


def _is_upright(segment: bytes) -> bool:
    """Read a camera's or an editor's block; what is odd about it is Pillow's to judge."""
    if not segment.startswith(b"Exif\0\0"):
        return b"rientation" not in segment  # XMP may turn a picture too
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(segment)
        return bool(exif.get(ExifTags.Base.Orientation, 1) == 1)
    except Exception:  # a damaged block makes Pillow raise anything
        return False
