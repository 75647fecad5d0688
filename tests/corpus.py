"""Pictures and titles that a catalog of 12M items holds sooner or later, made in code.

Every specimen states the right behavior of `pipeline.pictures.decode`: a picture of the expected
color, or a reason why there is none. Bombs are a few kB on disk. Made in about a second, same
bytes every time.
"""

import functools
import gzip
import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

RED = (200, 60, 30)
BLUE = (20, 40, 180)
GRAY = (128, 128, 128)
WHITE = (255, 255, 255)
SIZE = (48, 32)

# Lossy coding and 16 to 8 bits move a channel by a few steps, a wrong picture by far more.
TOLERANCE = 12

CUT = "truncated|cannot be decoded|not a picture"
PIXELS = "pixels"
LARGE = "too large|cannot be decoded"

TIFF_LONG = 4
TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma")


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """One file of the corpus, with what decoding it must give.

    Attributes:
        name: file name, unique; begins with "bomb-" if a small file asks for much.
        data: the file.
        is_readable: whether decoding must give a picture.
        reason: what the reason must match, in lower case, where it is not readable.
        color: what `spot_color` of the decoded picture must be within `TOLERANCE`; None where the
            file does not settle it. Most pictures are of one color, so that any spot will do.
    """

    name: str
    data: bytes
    is_readable: bool
    reason: str = ""
    color: tuple[int, int, int] | None = None


def spot_color(image: Image.Image) -> tuple[int, int, int]:
    """Return the color at 3/8 of the width and 1/8 of the height.

    The spot lies on no axis of symmetry: each of the eight orientations brings another one there.
    """
    return image.convert("RGB").getpixel((image.width * 3 // 8, image.height // 8))


@functools.cache
def _picture_corpus() -> tuple[Specimen, ...]:
    return tuple(
        _readable_jpeg()
        + _readable_png()
        + _readable_webp_and_gif()
        + _readable_bmp_and_tiff()
        + _readable_shapes()
        + _not_pictures()
        + _truncated()
        + _damaged()
        + _bombs()
    )


def picture_corpus() -> list[Specimen]:
    """Return all pictures, made once per process."""
    return list(_picture_corpus())


# Building blocks


def _good(name: str, data: bytes, color: tuple[int, int, int] | None = RED) -> Specimen:
    return Specimen(name=name, data=data, is_readable=True, color=color)


def _bad(name: str, data: bytes, reason: str) -> Specimen:
    return Specimen(name=name, data=data, is_readable=False, reason=reason)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _plain(mode: str = "RGB", color: object = RED, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new(mode, size, color)


def _noise(size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Return a picture that compresses badly, so that half a file is half a picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _after_soi(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


END = _chunk(b"IEND", b"")


def _png(
    depth: int,
    color_type: int,
    pixel: bytes,
    *,
    size: tuple[int, int] = SIZE,
    before: bytes = b"",
    after: bytes = b"",
    scanlines: bytes | None = None,
    is_interlaced: bool = False,
) -> bytes:
    """Return a PNG of one color.

    Args:
        depth: bits per sample.
        color_type: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA.
        pixel: one pixel, or the byte of which a row of packed pixels consists.
        size: width and height that the header states.
        before: chunks ahead of the pixels.
        after: chunks behind them.
        scanlines: filtered rows in place of those of one color.
        is_interlaced: what the header says of them.
    """
    width, height = size
    if scanlines is None:
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
        stride = -(-width * depth * samples // 8)
        scanlines = (b"\0" + (pixel * stride)[:stride]) * height
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, is_interlaced)
    body = before + _chunk(b"IDAT", zlib.compress(scanlines, 9)) + after
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + body + END


def _adam7(pixels: np.ndarray) -> bytes:
    """Return the scanlines of an interlaced PNG."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
    parts = [pixels[y::dy, x::dx] for x, y, dx, dy in (*passes, (0, 1, 1, 2))]
    return b"".join(b"\0" + row.tobytes() for part in parts if part.shape[1] for row in part)


def _gif(
    canvas: tuple[int, int],
    frames: list[tuple[tuple[int, int, int, int], bytes]],
    transparent: int | None = None,
) -> bytes:
    """Return a GIF without compression: nine-bit codes would need bit packing, eight-bit do not.

    Args:
        canvas: width and height that the header states.
        frames: for each its left, top, width and height, and its pixels: 0 is BLUE, 1 is RED.
        transparent: the index that is see-through.
    """
    clear, stop, run = 0x80, 0x81, 100
    parts = [b"GIF89a", struct.pack("<HHBBB", *canvas, 0xF6, 0, 0)]
    parts.append((bytes(BLUE) + bytes(RED)).ljust(3 * 128, b"\0"))
    for box, pixels in frames:
        flags, index = (0, 0) if transparent is None else (1, transparent)
        parts.append(struct.pack("<BBBBHBB", 0x21, 0xF9, 4, flags, 10, index, 0))
        parts.append(struct.pack("<BHHHHBB", 0x2C, *box, 0, 7))
        codes = b"".join(
            bytes([clear]) + pixels[start : start + run] for start in range(0, len(pixels), run)
        )
        codes += bytes([stop])
        blocks = [codes[start : start + 255] for start in range(0, len(codes), 255)]
        parts.append(b"".join(bytes([len(block)]) + block for block in blocks) + b"\0")
    return b"".join(parts) + b";"


def _bmp(size: tuple[int, int], body: bytes, *, bits: int = 24, compression: int = 0) -> bytes:
    """Return a BMP; a palette, where there is one, holds RED at 1."""
    palette = b"\0\0\0\0" + bytes(RED[::-1]) + b"\0" if bits <= 8 else b""
    offset = 54 + len(palette)
    info = struct.pack(
        "<IiiHHIIiiII", 40, *size, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0
    )
    return struct.pack("<2sIHHI", b"BM", offset + len(body), 0, 0, offset) + info + palette + body


def _tiff(
    size: tuple[int, int],
    body: bytes,
    *,
    order: str = "<",
    bits: tuple[int, ...] = (8, 8, 8),
    photometric: int = 2,
    next_ifd: int = 0,
    **tags: int | tuple[int, ...],
) -> bytes:
    """Return a TIFF of one strip; other tags are given as `t` and their number."""
    entries: dict[int, int | tuple[int, ...]] = {
        256: size[0],
        257: size[1],
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: len(bits),
        278: size[1],
        279: len(body),
    }
    entries |= {int(name[1:]): value for name, value in tags.items()}
    body += b"\0" * (len(body) % 2)
    extra_at = 8 + len(body) + 2 + 12 * len(entries) + 4
    ifd, extra = struct.pack(order + "H", len(entries)), b""
    for tag, value in sorted(entries.items()):
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, extra = struct.pack(order + "I", extra_at + len(extra)), extra + packed
        ifd += struct.pack(order + "HHI", tag, TIFF_LONG, len(values)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(body))
    return head + body + ifd + struct.pack(order + "I", next_ifd) + extra


def _webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _exif(orientation: int, *tags: tuple[int, int, int, int]) -> bytes:
    """Return an EXIF block with further tags, each a number, type, count and value."""
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += b"".join(struct.pack(">HHII", *tag) for tag in tags)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(tags) + 1) + entries + bytes(4)


def _turned(orientation: int) -> Image.Image:
    """Return what a camera stores in this orientation: upright, RED lies at the spot only."""
    image = _plain(color=BLUE, size=(64, 96))
    image.paste(RED, (16, 0, 32, 24))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return image.transpose(undo[orientation]) if orientation in undo else image


# Readable


def _readable_jpeg() -> list[Specimen]:
    image = _plain()
    plain = _saved(image, "JPEG", quality=90)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = b"Exif\0\0"
    noise = _saved(_noise(), "JPEG", quality=90)
    # Only a rotated picture shows whether somebody rewrites its EXIF block. Types of tags: 2 is
    # text, 11 a float, 99 nothing.
    odd_tags = {
        "unknown-type": (0x010F, 99, 1, 0),
        "value-outside": (0x0132, 2, 20, 9999),
        "width-as-float": (0x0100, 11, 1, 0x3F800000),
        "maker-as-float": (0x010F, 11, 1, 0x3F800000),
    }
    options = {
        "baseline": {"quality": 90},
        "progressive": {"quality": 90, "progressive": True},
        "444": {"quality": 90, "subsampling": 0},
        "420": {"quality": 90, "subsampling": 2},
        "restart-markers": {"quality": 90, "restart_marker_blocks": 1},
        "optimized": {"quality": 90, "optimize": True},
        "icc": {"quality": 90, "icc_profile": icc},
        "icc-broken": {"quality": 90, "icc_profile": b"\0\1\2 not a profile" * 50},
        "comment": {"quality": 90, "comment": b"\xff\x00 bytes" * 5000},
        "exif-huge": {"quality": 90, "exif": exif + b"MM\0*\0\0\0\x08\0\0" + bytes(65_000)},
        "exif-header-corrupt": {"quality": 90, "exif": exif + b"XX" + b"\xab" * 40},
        "exif-empty": {"quality": 90, "exif": exif},
        "exif-cut": {"quality": 90, "exif": _exif(1)[:24]},
        "exif-ifd-outside": {"quality": 90, "exif": exif + b"MM\0*\xff\xff\xff\xf0"},
    }
    specimens = [
        _good(f"jpeg-{name}.jpg", _saved(image, "JPEG", **keywords))
        for name, keywords in options.items()
    ]
    specimens += [
        _good(
            f"jpeg-exif-orientation-{orientation}.jpg",
            _saved(
                _turned(orientation), "JPEG", quality=95, subsampling=0, exif=_exif(orientation)
            ),
        )
        for orientation in range(1, 9)
    ]
    specimens += [
        _good(
            f"jpeg-exif-rotated-{name}.jpg",
            _saved(_turned(6), "JPEG", quality=95, subsampling=0, exif=_exif(6, tag)),
        )
        for name, tag in odd_tags.items()
    ]
    inked = _plain("CMYK", (0, 178, 216, 56))
    # Pillow writes no YCCK, but the same samples under the other Adobe transform are one. They
    # are stored inverted, as Adobe does and Pillow for CMYK.
    inverted = tuple(255 - value for value in RED)
    ycc = Image.new("RGB", (1, 1), inverted).convert("YCbCr").getpixel((0, 0))
    ycck = _saved(_plain("CMYK", (*(255 - value for value in ycc), 0)), "JPEG", quality=95)
    adobe = ycck.index(b"Adobe")
    ycck = ycck[: adobe + 11] + b"\x02" + ycck[adobe + 12 :]
    frames = {"save_all": True, "append_images": [_plain(color=BLUE)]}
    return [
        *specimens,
        _good("jpeg-exif-orientation-9.jpg", _saved(image, "JPEG", exif=_exif(9))),
        _good("jpeg-quality-1.jpg", _saved(image, "JPEG", quality=1), None),
        _good("jpeg-gray.jpg", _saved(_plain("L", 128), "JPEG", quality=90), GRAY),
        _good("jpeg-cmyk-adobe.jpg", _saved(inked, "JPEG", quality=95), (199, 60, 30)),
        _good("jpeg-ycck-adobe.jpg", ycck),
        _good("jpeg-multi-picture.jpg", _saved(image, "MPO", **frames)),
        _good("jpeg-garbage-after-end.jpg", plain + b"<!-- cached -->" * 99),
        _good("jpeg-padded-markers.jpg", _after_soi(plain, b"\xff" * 7)),
        # libjpeg fills what is missing with gray where an end marker follows the hole.
        _good("jpeg-hole-before-end.jpg", noise[: len(noise) // 2] + b"\xff\xd9", None),
    ]


def _readable_png() -> list[Specimen]:
    palette = _chunk(b"PLTE", bytes(BLUE) + bytes(RED))
    texts, animation = PngInfo(), {"save_all": True, "append_images": [_plain(color=BLUE)]}
    texts.add_text("Description", "long " * 180_000)
    texts.add_text("Software", "long " * 180_000, zip=True)
    gray_16, red_16 = struct.pack(">H", 128 * 257), struct.pack(">3H", *(257 * c for c in RED))
    rgba = bytes(RED) + b"\x80"
    half = tuple((c * 128 + 255 * 127) // 255 for c in RED)
    grid = np.tile(np.array(RED, np.uint8), (32, 48, 1))
    interlaced = {"scanlines": _adam7(grid), "is_interlaced": True}
    spotted = np.asarray(_turned(1))
    return [
        _good("png-palette-1.png", _png(1, 3, b"\xff", before=palette)),
        _good("png-palette-2.png", _png(2, 3, b"\x55", before=palette)),
        _good("png-palette-4.png", _png(4, 3, b"\x11", before=palette)),
        _good("png-palette-8.png", _png(8, 3, b"\x01", before=palette)),
        _good(
            "png-palette-transparent.png",
            _png(8, 3, b"\x01", before=palette + _chunk(b"tRNS", b"\xff\0")),
            WHITE,
        ),
        _good(
            "png-palette-half-transparent.png",
            _png(8, 3, b"\x01", before=palette + _chunk(b"tRNS", b"\0\x80")),
            half,
        ),
        _good("png-gray-1.png", _png(1, 0, b"\xff"), WHITE),
        _good("png-gray-2.png", _png(2, 0, b"\xaa"), (170, 170, 170)),
        _good("png-gray-4.png", _png(4, 0, b"\x77"), (119, 119, 119)),
        _good("png-gray-8.png", _png(8, 0, b"\x80"), GRAY),
        _good("png-gray-16.png", _png(16, 0, gray_16), GRAY),
        _good("png-gray-1-transparent.png", _transparent(1, 0, b"\xff", b"\0\1"), WHITE),
        _good("png-gray-2-transparent.png", _transparent(2, 0, b"\x55", b"\0\1"), WHITE),
        _good("png-gray-4-transparent.png", _transparent(4, 0, b"\x77", b"\0\7"), WHITE),
        _good("png-gray-8-transparent.png", _transparent(8, 0, b"\x40", b"\0\x40"), WHITE),
        _good("png-gray-16-transparent.png", _transparent(16, 0, gray_16, gray_16), WHITE),
        _good("png-rgb-transparent.png", _transparent(8, 2, bytes(RED), b"\0\xc8\0<\0\x1e"), WHITE),
        _good("png-rgb-16-transparent.png", _transparent(16, 2, red_16, red_16), WHITE),
        _good("png-gray-alpha.png", _png(8, 4, b"\x01\x80"), GRAY),
        _good("png-gray-alpha-16.png", _png(16, 4, b"\x01\x01\x80\x80"), GRAY),
        _good("png-rgb-8.png", _png(8, 2, bytes(RED))),
        _good("png-rgb-16.png", _png(16, 2, red_16)),
        _good("png-rgba-8.png", _png(8, 6, rgba), half),
        _good("png-rgba-16.png", _png(16, 6, red_16 + b"\x80\x80"), half),
        _good("png-rgba-invisible.png", _png(8, 6, bytes(RED) + b"\0"), WHITE),
        _good("png-interlaced.png", _png(8, 2, b"", **interlaced)),
        _good(
            "png-interlaced-spot.png",
            _png(8, 2, b"", size=(64, 96), scanlines=_adam7(spotted), is_interlaced=True),
        ),
        _good("png-texts-of-900-kb.png", _saved(_plain(), "PNG", pnginfo=texts)),
        _good("png-animated.png", _saved(_plain(), "PNG", **animation)),
        _good("png-exif-orientation-6.png", _saved(_turned(6), "PNG", exif=_exif(6))),
        _good("png-exif-corrupt.png", _png(8, 2, bytes(RED), before=_chunk(b"eXIf", b"MM\0"))),
        _good("png-icc-broken.png", _png(8, 2, bytes(RED), before=_chunk(b"iCCP", b"x\0\0???"))),
        _good("png-garbage-after-end.png", _png(8, 2, bytes(RED)) + b"\r\n" * 99),
        # Every pixel is there and whole: Pillow does not read on to the marker, nor check sums of
        # pixels other than zlib's own.
        _good("png-without-end.png", _png(8, 2, bytes(RED))[:-12]),
        _good("png-pixels-crc.png", _png(8, 2, bytes(RED))[:-16] + b"crc?" + END),
        # What lies beyond the last row is never inflated: no bomb.
        _good(
            "png-more-pixels-than-stated.png",
            _png(8, 2, b"", scanlines=(b"\0" + bytes(RED) * 48) * 32 + bytes(50_000_000)),
        ),
    ]


def _transparent(depth: int, color_type: int, pixel: bytes, key: bytes) -> bytes:
    return _png(depth, color_type, pixel, before=_chunk(b"tRNS", key))


def _readable_webp_and_gif() -> list[Specimen]:
    invisible = _plain("RGBA", (*RED, 0))
    animation = {"save_all": True, "append_images": [_plain(color=BLUE)], "duration": 50}
    width, height = SIZE
    whole = ((0, 0, width, height), b"\1" * width * height)
    other = ((0, 0, width, height), b"\0" * width * height)
    corner = ((40, 24, 8, 8), b"\1" * 64)
    spot = ((12, 0, 12, 8), b"\1" * 96)
    return [
        _good("webp-lossy.webp", _saved(_plain(), "WEBP", quality=90)),
        _good("webp-lossless.webp", _saved(_plain(), "WEBP", lossless=True)),
        _good("webp-transparent.webp", _saved(invisible, "WEBP", lossless=True), WHITE),
        _good("webp-transparent-lossy.webp", _saved(invisible, "WEBP", quality=80), WHITE),
        _good("webp-animated.webp", _saved(_plain(), "WEBP", quality=90, **animation)),
        _good(
            "webp-exif-orientation-8.webp",
            _saved(_turned(8), "WEBP", lossless=True, exif=_exif(8)),
        ),
        _good("webp-exif-corrupt.webp", _saved(_plain(), "WEBP", lossless=True, exif=b"\xff" * 30)),
        _good("gif-static.gif", _gif(SIZE, [whole])),
        _good("gif-saved-by-pillow.gif", _saved(_plain(), "GIF")),
        _good("gif-animated.gif", _gif(SIZE, [whole, other])),
        _good("gif-transparent.gif", _gif(SIZE, [whole], transparent=1), WHITE),
        _good("gif-other-index-transparent.gif", _gif(SIZE, [whole], transparent=0)),
        _good("gif-frame-smaller-than-canvas.gif", _gif(SIZE, [spot])),
        # What no frame covers shows the page behind it.
        _good("gif-canvas-not-covered.gif", _gif(SIZE, [corner], transparent=0), WHITE),
        _good("gif-frame-larger-than-canvas.gif", _gif((10, 10), [whole])),
        _good("gif-without-trailer.gif", _gif(SIZE, [whole])[:-1]),
        _good("gif-second-frame-cut.gif", _gif(SIZE, [whole, other])[:-900]),
    ]


def _readable_bmp_and_tiff() -> list[Specimen]:
    width, height = SIZE
    area = width * height
    rgb, half_gray = bytes(RED) * area, struct.pack("<H", 128 * 257) * area
    runs = (bytes([width, 1]) + b"\0\0") * height + b"\0\1"
    pages = {"save_all": True, "append_images": [_plain(color=BLUE)]}
    gray_16 = Image.fromarray(np.full((height, width), 128 * 257, np.uint16))
    inked = _plain("CMYK", (0, 178, 216, 56))
    tile = bytes(RED) * 16 * 16
    tiled = {"t322": 16, "t323": 16, "t324": tuple(8 + len(tile) * i for i in range(6))}
    tiled["t325"] = (len(tile),) * 6
    rgb_16 = struct.pack("<3H", *(257 * c for c in RED)) * area
    gray = {"bits": (16,), "photometric": 1}
    tif = {name: _saved(_plain(), "TIFF", compression=name) for name in TIFF_COMPRESSIONS}
    return [
        _good("bmp-1.bmp", _saved(_plain("1", 1), "BMP"), WHITE),
        _good("bmp-8.bmp", _saved(_plain().convert("P"), "BMP"), None),
        _good("bmp-24.bmp", _saved(_plain(), "BMP")),
        _good("bmp-32.bmp", _saved(_plain("RGBA", (*RED, 255)), "BMP")),
        _good("bmp-top-down.bmp", _bmp((width, -height), bytes(RED[::-1]) * area)),
        _good("bmp-run-length.bmp", _bmp(SIZE, runs, bits=8, compression=1)),
        *(_good(f"tiff-{name}.tif", data) for name, data in tif.items()),
        _good("tiff-jpeg.tif", _saved(_plain(), "TIFF", compression="jpeg", quality=95)),
        _good("tiff-fax.tif", _saved(_plain("1", 1), "TIFF", compression="group4"), WHITE),
        _good("tiff-big.tif", _saved(_plain(), "TIFF", big_tiff=True)),
        _good("tiff-multi-page.tif", _saved(_plain(), "TIFF", **pages)),
        _good("tiff-gray-16.tif", _saved(gray_16, "TIFF"), GRAY),
        _good(
            "tiff-gray-16-deflate.tif", _saved(gray_16, "TIFF", compression="tiff_deflate"), GRAY
        ),
        _good("tiff-cmyk.tif", _saved(inked, "TIFF"), (199, 60, 30)),
        _good("tiff-ycbcr.tif", _saved(_plain().convert("YCbCr"), "TIFF")),
        _good("tiff-lab.tif", _saved(_plain("LAB", (136, 0, 0)), "TIFF"), None),
        _good("tiff-big-endian.tif", _tiff(SIZE, rgb, order=">")),
        _good("tiff-tiled.tif", _tiff(SIZE, tile * 6, **tiled)),
        _good("tiff-rgb-16.tif", _tiff(SIZE, rgb_16, bits=(16, 16, 16))),
        _good(
            "tiff-rgba-16.tif",
            _tiff(SIZE, bytes(8 * area), bits=(16,) * 4, t338=2),
            WHITE,
        ),
        _good("tiff-gray-premultiplied.tif", _gray_and_alpha(b"\0\0", area, 1), WHITE),
        _good("tiff-gray-alpha.tif", _gray_and_alpha(b"\x50\0", area, 2), WHITE),
        _good("tiff-gray-white-is-zero.tif", _gray(b"\x7f" * area, 8, 0), GRAY),
        # 0 is white there, too.
        _good("tiff-gray-16-white-is-zero.tif", _gray(b"\0\x20" * area, 16, 0), (223,) * 3),
        _good(
            "tiff-gray-16-big-endian.tif", _tiff(SIZE, b"\x80\x80" * area, order=">", **gray), GRAY
        ),
        # Full white in 12 bits is 4095.
        _good("tiff-gray-12.tif", _gray(b"\xff" * (area * 3 // 2), 12, 1), WHITE),
        _good("tiff-gray-32.tif", _saved(_plain("I", 128 * 257), "TIFF"), None),
        _good("tiff-float.tif", _saved(_plain("F", 0.5), "TIFF"), None),
        _good("tiff-orientation-6.tif", _sideways_tiff()),
        _good("tiff-ifd-loop.tif", _tiff(SIZE, rgb, next_ifd=8 + len(rgb))),
        _good("tiff-next-ifd-outside.tif", _tiff(SIZE, rgb, next_ifd=2**32 - 2)),
        _good("tiff-half-gray.tif", _gray(half_gray, 16, 1), GRAY),
    ]


def _gray(body: bytes, depth: int, photometric: int) -> bytes:
    return _tiff(SIZE, body, bits=(depth,), photometric=photometric)


def _gray_and_alpha(pixel: bytes, area: int, kind: int) -> bytes:
    return _tiff(SIZE, pixel * area, bits=(8, 8), photometric=1, t338=kind)


def _sideways_tiff() -> bytes:
    image = _turned(6)
    return _tiff(image.size, image.tobytes(), t274=6)


def _readable_shapes() -> list[Specimen]:
    return [
        _good("one-pixel.png", _png(8, 2, bytes(RED), size=(1, 1))),
        _good("one-pixel.jpg", _saved(_plain(size=(1, 1)), "JPEG", quality=95)),
        _good("one-pixel.gif", _gif((1, 1), [((0, 0, 1, 1), b"\1")])),
        _good("one-pixel.webp", _saved(_plain(size=(1, 1)), "WEBP", lossless=True)),
        _good("one-pixel.bmp", _saved(_plain(size=(1, 1)), "BMP")),
        _good("one-pixel.tif", _saved(_plain(size=(1, 1)), "TIFF")),
        _good("1-x-50.png", _png(8, 2, bytes(RED), size=(1, 50))),
        _good("99-to-1.png", _png(8, 2, bytes(RED), size=(990, 10))),
        _good("1-to-99.jpg", _saved(_plain(size=(10, 990)), "JPEG", quality=95)),
        _good("100-to-1.png", _png(8, 2, bytes(RED), size=(100, 1))),
        # Below the limit of this project, above the size at which Pillow warns.
        _good("92-megapixels.png", _png(1, 0, b"\0", size=(9600, 9600)), (0, 0, 0)),
    ]


# Not readable


def _not_pictures() -> list[Specimen]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("picture.jpg"), _saved(_plain(), "JPEG"))
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
    texts = {
        "html.jpg": "<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "text.jpg": "picture to follow\n",
        "blanks.jpg": " " * 1000,
        "json.jpg": json.dumps({"error": "AccessDenied", "status": 403}),
        "svg.png": svg,
        "base64.jpg": "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQ",
        "postscript.eps": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) run\n",
        "xbm.xbm": "#define a_width 8\n#define a_height 1\nstatic char a_bits[] = { 0xff };\n",
        "ppm.ppm": "P3 1 1 255 200 60 30\n",
    }
    files = {
        "pdf.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
        "zip.jpg": archive.getvalue(),
        "zeros.jpg": bytes(5000),
        "git-lfs-pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "icon.ico": _saved(_plain(size=(16, 16)), "ICO"),
        "jpeg2000.jp2": _saved(_plain(), "JPEG2000"),
        "avif.avif": _saved(_plain(), "AVIF"),
        "targa.tga": _saved(_plain(), "TGA"),
        "photoshop.psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 32, 48, 8, 3),
        "postscript-with-preview.eps": b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, 9, 0, 0, 0, 0),
        "riff-but-sound.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(24),
        "bare-bitmap.dib": _saved(_plain(), "DIB"),
    }
    files |= {name: text.encode() for name, text in texts.items()}
    return [
        _bad("zero-bytes.jpg", b"", "empty"),
        _bad("one-byte.jpg", b"\xff", "not a picture"),
        *(_bad(name, data, "not a picture") for name, data in files.items()),
    ]


def _truncated() -> list[Specimen]:
    """Return files cut at places; only a JPEG, WebP, BMP or TIFF misses its last byte in Pillow."""
    noise = _noise()
    needs_last_byte = {
        "jpeg": _saved(noise, "JPEG", quality=90),
        "jpeg-progressive": _saved(noise, "JPEG", quality=90, progressive=True),
        "webp": _saved(noise, "WEBP", quality=90),
        "webp-lossless": _saved(noise, "WEBP", lossless=True),
        "webp-animated": _saved(
            noise, "WEBP", save_all=True, append_images=[_plain(size=(96, 96))]
        ),
        "bmp": _saved(noise, "BMP"),
        "tiff": _saved(noise, "TIFF"),
        "tiff-lzw": _saved(noise, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": _saved(noise, "TIFF", compression="tiff_adobe_deflate"),
    }
    others = {
        "png": _saved(noise, "PNG"),
        "png-interlaced": _png(
            8, 2, b"", size=noise.size, scanlines=_adam7(np.asarray(noise)), is_interlaced=True
        ),
        "gif": _saved(noise, "GIF"),
    }
    specimens = []
    for kind, data in (needs_last_byte | others).items():
        cuts = {"at-3-bytes": 3, "at-20-bytes": 20, "halfway": len(data) // 2}
        cuts["50-bytes-short"] = len(data) - 50
        if kind in needs_last_byte:
            cuts["1-byte-short"] = len(data) - 1
        specimens += [
            _bad(f"truncated-{kind}-{where}", data[:stop], CUT) for where, stop in cuts.items()
        ]
    return specimens


def _damaged() -> list[Specimen]:
    noise = _noise()
    png = bytearray(_saved(noise, "PNG"))
    middle = png.index(b"IDAT") + 500
    png[middle] ^= 0xFF
    gray = _jpeg_segment(0xC0, struct.pack(">BHHB", 8, 32, 48, 2) + b"\1\x11\0\2\x11\0")
    random = np.random.default_rng(1).bytes(4000)
    width, height = SIZE
    return [
        _bad("png-bit-flips.png", bytes(png), CUT),
        _bad("png-signature-only.png", b"\x89PNG\r\n\x1a\n", "not a picture|cannot be decoded"),
        _bad("png-without-pixels.png", _png(8, 2, bytes(RED))[:33] + END, CUT),
        _bad("png-zero-wide.png", _png(8, 2, b"", size=(0, 10)), "pixels|not a picture|cannot be"),
        _bad(
            "png-zero-by-zero.png", _png(8, 2, b"", size=(0, 0)), "pixels|not a picture|cannot be"
        ),
        # Pillow would show the index as a shade of gray, or fail an assertion; libpng refuses.
        _bad("png-palette-missing.png", _png(8, 3, b"\x80"), CUT + "|palette"),
        _bad("png-depth-3.png", _png(3, 2, bytes(RED)), CUT),
        _bad(
            "png-header-crc.png", _png(8, 2, bytes(RED)).replace(b"IHDR\0\0", b"IHDR\0\1", 1), CUT
        ),
        _bad("jpeg-magic-then-random.jpg", b"\xff\xd8\xff\xe0" + random, CUT),
        _bad("jpeg-magic-only.jpg", b"\xff\xd8\xff", CUT),
        _bad("jpeg-start-then-end.jpg", b"\xff\xd8\xff\xd9", CUT),
        _bad("jpeg-two-channels.jpg", b"\xff\xd8" + gray + b"\xff\xd9", CUT),
        _bad("png-magic-then-random.png", b"\x89PNG\r\n\x1a\n" + random, CUT),
        _bad("gif-magic-then-random.gif", b"GIF89a" + random, CUT + "|pixels"),
        _bad("gif-without-frames.gif", _gif(SIZE, []), CUT),
        _bad("gif-zero-by-zero.gif", _gif((0, 0), [((0, 0, 0, 0), b"")]), "pixels|cannot be|not a"),
        _bad("webp-magic-then-random.webp", _webp(b"VP8 ", random), CUT),
        _bad("tiff-magic-then-random.tif", b"II*\0\x08\0\0\0" + random, CUT + "|pixels"),
        _bad("tiff-zero-by-zero.tif", _tiff((0, 0), b""), "pixels|cannot be|not a picture"),
        _bad("tiff-ifd-outside.tif", b"II*\0\xf0\xff\xff\xff", CUT),
        _bad("tiff-ifd-in-itself.tif", b"II*\0\0\0\0\0", CUT),
        _bad("tiff-strip-outside.tif", _tiff(SIZE, b"", t273=2**31), CUT),
        _bad("tiff-7-channels.tif", _tiff(SIZE, bytes(7 * width * height), bits=(8,) * 7), CUT),
        _bad("bmp-zero-by-zero.bmp", _bmp((0, 0), b""), "pixels|cannot be|not a picture"),
        _bad("bmp-negative-width.bmp", _bmp((-width, height), bytes(5000)), CUT + "|pixels"),
        _bad("bmp-negative-extremes.bmp", _bmp((-(2**31), -(2**31)), b""), CUT + "|pixels"),
        _bad("bmp-unknown-compression.bmp", _bmp(SIZE, bytes(5000), compression=77), CUT),
        _bad("101-to-1.png", _png(8, 2, bytes(RED), size=(1010, 10)), PIXELS),
        _bad("1-to-101.gif", _gif((1, 101), [((0, 0, 1, 101), b"\1" * 101)]), PIXELS),
    ]


# Bombs


def _large_png(width: int, height: int) -> bytes:
    return _png(8, 2, b"", size=(width, height), scanlines=bytes(100_000))


def _jpeg_header(
    width: int, height: int, *, frame: int = 0xC0, num_scans: int = 1, num_channels: int = 1
) -> bytes:
    """Return a JPEG whose scans are all empty; a decoder passes over the picture once for each."""
    channels = range(1, num_channels + 1)
    size = struct.pack(">BHHB", 8, height, width, num_channels)
    table = b"\1" + bytes(16)
    first = bytes([num_channels, *(value for i in channels for value in (i, 0)), 0, 0, 0])
    if frame == 0xC0:
        first = first[:-3] + b"\0\x3f\0"
    scans = [first] + [bytes([1, 1, 0, 1, 63, 0])] * (num_scans - 1)
    return b"".join(
        [
            b"\xff\xd8",
            _jpeg_segment(0xDB, b"\0" + b"\1" * 64),
            _jpeg_segment(frame, size + b"".join(bytes([i, 0x11, 0]) for i in channels)),
            _jpeg_segment(0xC4, b"\0" + table),
            _jpeg_segment(0xC4, b"\x10" + table),
            *(_jpeg_segment(0xDA, scan) for scan in scans),
            b"\xff\xd9",
        ]
    )


def _bombs() -> list[Specimen]:
    zeros = zlib.compress(bytes(50_000_000), 9)
    texts = {
        "ztxt": _chunk(b"zTXt", b"Comment\0\0" + zeros),
        "itxt": _chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros),
        "iccp": _chunk(b"iCCP", b"profile\0\0" + zeros),
    }
    many_texts = _chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(1_000_000), 9)) * 200
    vp8x = struct.pack("<I", 0) + (16_382).to_bytes(3, "little") * 2
    vp8 = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(200)
    vp8l = b"\x2f" + struct.pack("<I", 16_382 | 16_382 << 14) + bytes(200)
    red = bytes(RED)
    rows = (b"\1\1" + b"\0\0") * 5000 + b"\0\1"
    deflated = zlib.compress(bytes(1_000_000), 9)
    # libtiff holds one whole tile, however small the picture.
    large_tile = {"t322": 16_384, "t323": 16_384, "t324": 8, "t325": len(deflated), "t259": 8}
    files = {
        "png-gigapixel.png": (_large_png(31_623, 31_623), PIXELS),
        "png-50000-x-50000.png": (_large_png(50_000, 50_000), PIXELS),
        "png-longest-line.png": (_large_png(2**32 - 1, 1), PIXELS + "|" + CUT),
        "png-signed-longest-line.png": (_large_png(2**31 - 1, 1), PIXELS),
        "png-above-the-limit.png": (_large_png(10_001, 10_001), PIXELS),
        **{
            f"png-{name}.png": (_png(8, 2, red, before=chunk), LARGE)
            for name, chunk in texts.items()
        },
        "png-ztxt-behind.png": (_png(8, 2, red, after=texts["ztxt"]), LARGE),
        "png-many-texts.png": (_png(8, 2, red, before=many_texts), LARGE),
        "png-chunk-of-4-gb.png": (_png(8, 2, red)[:33] + b"\xff\xff\xff\xffIDATxx", CUT),
        "gif-65535-x-65535.gif": (_gif((65_535, 65_535), [((0, 0, 1, 1), b"\1")]), PIXELS),
        "gif-large-frame.gif": (_gif((1, 1), [((0, 0, 65_535, 65_535), b"\1")]), PIXELS),
        "tiff-huge.tif": (_tiff((2**31 - 1, 2**31 - 1), bytes(100)), PIXELS + "|" + CUT),
        "tiff-30000-x-30000.tif": (_tiff((30_000, 30_000), bytes(100)), PIXELS),
        "tiff-many-strips.tif": (_many_strips(), CUT),
        "tiff-many-channels.tif": (_tiff(SIZE, bytes(100), t277=2**32 - 1), CUT),
        "tiff-large-tile.tif": (_tiff(SIZE, deflated, **large_tile), CUT + "|pixels"),
        "tiff-large-rgba-tile.tif": (
            _tiff(SIZE, deflated, bits=(8,) * 4, t338=2, **large_tile),
            CUT + "|pixels",
        ),
        "bmp-enormous.bmp": (_bmp((2**31 - 1, 2**31 - 1), bytes(100)), PIXELS),
        "bmp-40000-x-40000.bmp": (_bmp((40_000, -40_000), bytes(100)), PIXELS),
        # Pillow fills the rest of each row byte by byte, in Python: seconds for 20 kB.
        "bmp-run-length.bmp": (
            _bmp((5000, 5000), rows, bits=8, compression=1),
            "run-length|rle|pixels",
        ),
        "webp-canvas.webp": (_webp(b"VP8X", vp8x), PIXELS + "|" + CUT),
        "webp-lossy.webp": (_webp(b"VP8 ", vp8), PIXELS + "|" + CUT),
        "webp-lossless.webp": (_webp(b"VP8L", vp8l), PIXELS + "|" + CUT),
        "jpeg-65500-x-65500.jpg": (_jpeg_header(65_500, 65_500), PIXELS),
        "jpeg-progressive-65500-x-65500.jpg": (_jpeg_header(65_500, 65_500, frame=0xC2), PIXELS),
        # A pass over all pixels for each ten bytes: minutes for 100 kB at the largest size.
        "jpeg-many-scans.jpg": (
            _jpeg_header(4000, 4000, frame=0xC2, num_scans=2000),
            "scans",
        ),
        "gzip.jpg": (gzip.compress(bytes(20_000_000), 9, mtime=0), "not a picture"),
        "gzip-twice.png": (
            gzip.compress(gzip.compress(bytes(20_000_000), 9, mtime=0), 9, mtime=0),
            "not a picture",
        ),
    }
    return [_bad(f"bomb-{name}", data, reason) for name, (data, reason) in files.items()]


def _many_strips() -> bytes:
    """Return a TIFF that claims four billion strips, in a list that the file does not hold."""
    tiff = bytearray(_tiff(SIZE, bytes(100)))
    entry = tiff.index(struct.pack("<HHI", 273, TIFF_LONG, 1))
    tiff[entry + 4 : entry + 8] = b"\xff\xff\xff\xff"
    return bytes(tiff)


# Titles


def title_corpus() -> list[tuple[str, bytes | None, bool]]:
    """Return name, bytes and whether they are a title: null and bytes that are not UTF-8 are none.

    An empty title is one; what is not text to a person (blanks, NUL, emoji) is still one.
    """
    texts = {
        "empty": "",
        "blanks": " \t \n\r\u00a0\u3000",
        "plain": "Acme red mug, 300 ml",
        "emoji": "\U0001f9e6 socks \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1ea\U0001f1fa",
        "emoji-only": "\U0001f600" * 40,
        "zero-width": "\u200b\u200c\u200d\u2060\ufeff",
        "right-to-left": "\u202e\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627\u202c",
        "chinese": "\u4e2d\u6587\u6a19\u984c",
        "nul-inside": "before\0after",
        "nul-only": "\0",
        "control-characters": "".join(map(chr, [*range(1, 32), *range(127, 160)])),
        "100-kb-word": "a" * 100_000,
        "100-kb-words": "red mug " * 12_500,
        "100-kb-emoji": "\U0001f9e6" * 25_000,
        "combining-marks": "Z" + "\u0335\u0321\u0322\u0327" * 500 + "algo",
        "markup": "<b>Mug</b> &amp; <script>alert(1)</script>",
        "formula": '=HYPERLINK("http://example.invalid")',
        "quotes-and-newlines": 'a "quoted"\r\ntitle, with; separators\t|',
        "special-tokens": "<start_of_text><end_of_text><|endoftext|>",
        "noncharacters": "\ufffe\uffff\U0010ffff\ufffd",
        "byte-order-mark": "\ufeffMug",
        "private-use": "\ue000\uf8ff",
    }
    not_utf8 = {
        "surrogate": b"mug \xed\xa0\x80",
        "surrogate-pair": b"\xed\xa0\xbd\xed\xb8\x80",
        "latin-1": "caf\u00e9 cr\u00e8me".encode("latin-1"),
        "truncated-character": "\u4e2d\u6587".encode()[:-1],
        "continuation-only": b"\x80\x80",
        "overlong-slash": b"\xc0\xaf",
        "overlong-nul": b"\xc0\x80",
        "beyond-unicode": b"\xf4\x90\x80\x80",
        "utf-16": b"\xff\xfe" + "mug".encode("utf-16-le"),
        "windows-1252-quotes": b"\x93Mug\x94",
        "shift-jis": "\u30de\u30b0".encode("shift_jis"),
        "random": np.random.default_rng(2).bytes(200),
        "100-kb-then-one-bad-byte": b"a" * 100_000 + b"\xff",
    }
    return [
        *((name, text.encode(), True) for name, text in texts.items()),
        *((name, data, False) for name, data in not_utf8.items()),
        ("null", None, False),
    ]
