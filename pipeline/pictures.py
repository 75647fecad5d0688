"""Turn the bytes of a picture into upright RGB pixels, or say why that cannot be.

Read: JPEG, PNG, WebP, GIF, BMP, TIFF, in any mode Pillow knows. The first frame of an animation,
rotated upright by its EXIF tag, transparency on white, 16 bits scaled to 8. DESIGN.md section 10.
"""

import io

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
MAX_ASPECT = 100
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class PictureError(ValueError):
    """A picture that cannot be decoded; its text is the reason kept in the item's row."""


def decode(data: bytes) -> Image.Image:
    """Decode one picture.

    Args:
        data: the encoded file.
    Returns: an upright RGB image with 8 bits a channel.
    Raises: PictureError with the reason: empty, not a picture, truncated, too large.
    """
    if not data:
        raise PictureError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"not a picture: starts with {data[:12]!r}") from error
    # Pillow's parsers raise nearly anything on damaged files.
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError) as error:
        raise PictureError(f"cannot be decoded: {error}") from error
    except (OverflowError, ZeroDivisionError, MemoryError, NotImplementedError) as error:
        raise PictureError(f"cannot be decoded: {type(error).__name__} {error}") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        # Its shorter side scaled up to the encoder's input would take gigabytes.
        raise PictureError(
            f"{width} x {height} pixels, more than {MAX_ASPECT} times as long as wide"
        )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        # Pillow clips at 255 instead of scaling: a 16-bit photo would come out white.
        return image.convert("I").point(lambda value: value / 257.0).convert("L").convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image.convert("RGB")
