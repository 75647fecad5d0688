"""Every kind of picture a catalog holds, good and bad."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline import pictures
from pipeline.pictures import PictureError, decode, load
from tests.fakes import PREPROCESS


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(size: tuple[int, int] = (40, 30)) -> Image.Image:
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], 2)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_pixels(kind: str) -> None:
    """What was saved is what is embedded."""
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(encoded(gradient(), kind, **options))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(gradient()))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGBA", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Shops deliver CMYK from print and palettes from the nineties."""
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    found = decode(encoded(gradient().convert(mode), kind))
    assert (found.mode, found.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("orientation", [None, 6])
@pytest.mark.parametrize("size", [(300, 200), (301, 203), (831, 1000), (1000, 811), (999, 998)])
def test_scaled_decoding_shifts_nothing(size: tuple[int, int], orientation: int | None) -> None:
    """A decoder rounds half a pixel up; taken for whole it moved the crop by one (cosine 0.998)."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    data = encoded(small.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=95, exif=exif)
    preprocess = replace(PREPROCESS, size=(48, 48))
    full, scaled = (load(data, preprocess, is_scaled=scaled) for scaled in (False, True))
    is_same = bool((full == scaled).all())
    assert is_same == (orientation == 6)  # turned pictures are rare, and decoded in full
    assert np.abs(full.astype(int) - scaled.astype(int)).mean() < 1


def test_an_exif_rotation_is_applied() -> None:
    """A phone photo lies on its side otherwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decode(encoded(gradient(), "PNG", exif=exif))
    expected = gradient().transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_becomes_white(mode: str) -> None:
    """Cut-out products on black would look like other products."""
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    found = decode(encoded(image if mode == "RGBA" else image.convert("P"), "PNG"))
    assert found.getpixel((3, 3)) == (255, 255, 255)
    assert found.getpixel((0, 0)) == (255, 0, 0)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    """Pillow's own conversion turns nearly all of such a picture white."""
    image = Image.fromarray(np.full((4, 4), 32896, np.uint16))
    assert decode(encoded(image, "PNG")).getpixel((0, 0)) == (128, 128, 128)


def test_an_animation_gives_its_first_frame() -> None:
    """One item, one picture."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).getpixel((0, 0)) == (255, 0, 0)


def test_one_pixel_is_a_picture() -> None:
    """Placeholders exist; they are poor, not broken."""
    assert decode(encoded(Image.new("RGB", (1, 1)), "PNG")).size == (1, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404 Not Found</html>", "not a picture"),
        (encoded(gradient((200, 200)), "JPEG")[:2000], "truncated"),
        (encoded(gradient(), "PNG")[:60], "cannot be decoded|not a picture"),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 50, "cannot be decoded|not a picture"),
    ],
)
def test_a_bad_picture_has_a_reason(data: bytes, reason: str) -> None:
    """The reason stands in the item's row; nothing else learns of it."""
    with pytest.raises(PictureError, match=reason):
        decode(data)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few kB of zeros can ask for all the memory of a node."""
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    with pytest.raises(PictureError, match="too many pixels: 40 x 30"):
        decode(encoded(gradient(), "PNG"))


def test_random_damage_never_raises_anything_else() -> None:
    """A decoder bug on one of 12M files must cost that file only."""
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        data = encoded(gradient(), kind)
        for _ in range(60):
            damaged = bytearray(data)
            for position in rng.integers(0, len(data), 8):
                damaged[position] = rng.integers(256)
            with contextlib.suppress(PictureError):
                assert decode(bytes(damaged)).mode == "RGB"
