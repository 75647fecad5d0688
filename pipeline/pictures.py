"""Turn the bytes of a picture into upright RGB pixels, or say why that cannot be.

Read: JPEG, PNG, WebP, GIF, BMP, TIFF, in any mode Pillow knows. The first frame of an animation,
rotated upright by its EXIF tag, transparency on white, 16 bits scaled to 8. DESIGN.md section 10.

Pillow and NumPy only: worker processes import this, and start in a tenth of a second without torch.

H, W height and width in pixels.
"""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TILELENGTH, TILEWIDTH, TiffImageFile

from schemas.plan import Preprocess

MAX_PIXELS = 100_000_000
MAX_ASPECT = 100
_MAX_SCANS = 100
_MAX_RUN_LENGTH_PIXELS = 1_000_000
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own check comes before ours
_JPEG = ("JPEG", "MPO")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class PictureError(ValueError):
    """A picture that cannot be decoded; its text is the reason kept in the item's row."""


# Scaled decoding leaves twice the encoder's input at a half, four times at a quarter: below, the
# cosine to a full decode fell under 0.999 (docs/LOG.md).
_SCALES = ((4, 4), (2, 2))


def load(data: bytes, preprocess: Preprocess, *, is_scaled: bool) -> UInt8[np.ndarray, "H W 3"]:
    """Decode a picture to the encoder's input.

    Args:
        data: the encoded file.
        preprocess: size and resize mode of the input.
        is_scaled: let libjpeg decode at a half or a quarter where that leaves enough pixels.
    Raises: PictureError.
    """
    is_scaled = is_scaled and preprocess.resize_mode != "longest"
    try:
        image, extent = _decode(data, max(preprocess.size) if is_scaled else None)
        return to_input(image, preprocess, extent)
    except (ValueError, MemoryError, OverflowError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"cannot be resized: {error}") from error


def decode(data: bytes, *, least_pixels: int | None = None) -> Image.Image:
    """Decode one picture.

    Args:
        data: the encoded file.
        least_pixels: of the shorter side, if a smaller picture will do; None for the full size.
    Returns: an upright RGB image with 8 bits a channel.
    Raises: PictureError with the reason: empty, not a picture, truncated, too large.
    """
    return _decode(data, least_pixels)[0]


def _decode(data: bytes, needed: int | None) -> tuple[Image.Image, tuple[float, float]]:
    """Decode one picture, scaled down where its shorter side still is far above `needed` pixels.

    Returns: the image, and how far the picture reaches in it: libjpeg rounds half a pixel up, and
        a resize that took this one for whole would shift the rest by up to a pixel.
    """
    if not data:
        raise PictureError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            _check_cost(image, data)
            raw_mode, whole, scale = _raw_mode(image), image.size, 1
            # Of a JPEG only: other formats may have to read all of the file for it.
            if needed is not None and image.format in _JPEG and _turn(image) is None:
                short = min(whole)
                most = next((s for s, gap in _SCALES if short >= s * gap * needed), 1)
                image.draft(None, (short // most, short // most))
                scale = round(whole[0] / image.width)
            image.load()
            turn = _turn(image)
            upright = _rgb(image if turn is None else image.transpose(turn), raw_mode)
            if scale == 1:
                return upright, upright.size
            return upright, (whole[0] / scale, whole[1] / scale)
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"too many pixels: more than {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"not a picture: starts with {data[:12]!r}") from error
    except Exception as error:  # Pillow's parsers raise anything on damaged files
        raise PictureError(f"cannot be decoded: {error or type(error).__name__}") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(f"too many pixels: {width} x {height}, at most {MAX_PIXELS:,}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        # Its shorter side scaled up to the encoder's input would take gigabytes.
        raise PictureError(
            f"too narrow: {width} x {height} pixels, one side at most {MAX_ASPECT} times the other"
        )


def _check_cost(image: ImageFile.ImageFile, data: bytes) -> None:
    """Refuse small files that take minutes or gigabytes to decode."""
    num_pixels = image.width * image.height
    if image.format in _JPEG and data.count(b"\xff\xda") > _MAX_SCANS:
        raise PictureError(f"too many scans: more than {_MAX_SCANS} in a JPEG")
    if image.tile and image.tile[0][0] == "bmp_rle" and num_pixels > _MAX_RUN_LENGTH_PIXELS:
        raise PictureError("too many pixels: a run-length BMP is decoded byte by byte")
    if isinstance(image, TiffImageFile):
        tile = image.tag_v2.get(TILEWIDTH, 0) * image.tag_v2.get(TILELENGTH, 0)
        if tile > 4 * num_pixels + 2**20:
            raise PictureError("too many pixels: a TIFF tile larger than the picture")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how to turn a picture by its EXIF tag; one whose EXIF is damaged stays as it is.

    ImageOps.exif_transpose writes the whole block anew, and fails on one odd tag of it.
    """
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged block makes Pillow raise anything
        return None


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return how the file stores a pixel, which decides what white is."""
    args = image.tile[0][3] if image.tile else None
    raw_mode = args[0] if isinstance(args, tuple) and args else args
    inverted = (
        isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    )
    return f"{raw_mode}{' inverted' if inverted else ''}"


def _rgb(image: Image.Image, raw_mode: str) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode == "RGB" and key is None:
        return image
    if image.mode.startswith("I"):
        return _from_16_bits(image, raw_mode, key)
    if image.mode == "L" and isinstance(key, int):
        # Pillow scales 2 and 4 bits of gray up to 8, but not the transparent one among them.
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}.get(raw_mode, 1)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image.getchannel("A"))
        return canvas
    return image.convert("RGB")


def _from_16_bits(image: Image.Image, raw_mode: str, key: object) -> Image.Image:
    """Scale to 8 bits: Pillow clips at 255, and a 16-bit photo would come out white."""
    values = np.asarray(image)
    white = 4095 if raw_mode.startswith("I;12") else 65535
    gray = np.clip(values.astype(np.float32) * (255 / white), 0, 255).astype(np.uint8)
    if raw_mode.endswith("inverted"):
        gray = 255 - gray
    if isinstance(key, int):
        gray[values == key] = 255
    return Image.fromarray(gray).convert("RGB")


def to_input(
    image: Image.Image, preprocess: Preprocess, extent: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Resize and crop an RGB image as open_clip does, before its normalization.

    Its transforms are torchvision's on Pillow images; a test compares them pixel by pixel.

    Args:
        image: upright.
        preprocess: size and resize mode.
        extent: width and height that the picture takes in the image; None for all of it.
    """
    height, width = preprocess.size
    mode, whole = preprocess.resize_mode, extent or image.size
    box = (0.0, 0.0, *whole)
    if mode == "squash":
        return np.asarray(image.resize((width, height), _filter(preprocess), box))
    if mode == "longest":
        image = image.resize(_kept_ratio(whole, preprocess, max), _filter(preprocess), box)
    elif height == width:
        short = min(whole)
        # As torchvision: the longer side rounds down.
        size = (int(height * whole[0] / short), int(height * whole[1] / short))
        if image.size != size:
            image = image.resize(size, _filter(preprocess), box)
    else:  # open_clip forgets the interpolation here
        size = _kept_ratio(whole, preprocess, min)
        image = image.resize(size, Image.Resampling.BICUBIC, box)
    fill = preprocess.fill_color if mode == "longest" else 0
    return np.asarray(_center(image, width, height, fill))


def _filter(preprocess: Preprocess) -> Image.Resampling:
    return Image.Resampling[preprocess.interpolation.upper()]


def _kept_ratio(
    whole: tuple[float, float], preprocess: Preprocess, choose: Callable[[float, float], float]
) -> tuple[int, int]:
    height, width = preprocess.size
    ratio = choose(whole[1] / height, whole[0] / width)
    return max(1, round(whole[0] / ratio)), max(1, round(whole[1] / ratio))


def _center(image: Image.Image, width: int, height: int, fill: int) -> Image.Image:
    """Crop the center; pad first where the image is smaller, the odd pixel right and below."""
    if image.width < width or image.height < height:
        size = (max(width, image.width), max(height, image.height))
        canvas = Image.new("RGB", size, (fill,) * 3)
        canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
        image = canvas
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return image.crop((left, top, left + width, top + height))
