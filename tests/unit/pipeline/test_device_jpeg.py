"""JPEGs that a device decodes come out as Pillow's; whatever is odd is left to Pillow.

torchcodec's decoder on the CPU stands in for nvJPEG: the same calls, another device.
"""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.reader import Cache
from cache.storage import LocalStorage
from cache.verify import shard_state
from pipeline import self_checks
from pipeline.decode_pool import DecodePool
from pipeline.device_jpeg import DeviceJpegs, is_plain, is_supported
from pipeline.encoder import load_encoder, resolve
from pipeline.pictures import load
from pipeline.self_checks import device_jpegs
from schemas.plan import Preprocess
from tests.corpus import picture_corpus
from tests.fakes import PREPROCESS, HashEncoder, picture_bytes
from tests.faults import copy_files, embed_here, files_of, plan_catalog

CPU = torch.device("cpu")


class Counting(DeviceJpegs):
    """Counts what it decodes, and refuses as nvJPEG may."""

    num_decoded = 0
    refuses = False

    def decode(self, pictures: list[bytes]) -> np.ndarray:
        if self.refuses:
            raise RuntimeError("nvjpegDecodeBatched failed: 5")
        self.num_decoded += len(pictures)
        return super().decode(pictures)


def preprocess_of(
    mode: str = "shortest", size: tuple[int, int] = (64, 64), interpolation: str = "bicubic"
) -> Preprocess:
    return Preprocess(
        size=size,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation=interpolation,
        resize_mode=mode,
        fill_color=0,
    )


def jpeg(size: tuple[int, int] = (300, 200), mode: str = "RGB", **options: object) -> bytes:
    """Return smooth colors with an edge, as a file."""
    rng = np.random.default_rng(size[0])
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)
    image.paste((250, 20, 20), (5, 5, size[0] // 2, size[1] // 2))
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def tagged(tag: int, value: object) -> bytes:
    exif = Image.Exif()
    exif[tag] = value
    return jpeg(exif=exif)


def turned(orientation: int) -> bytes:
    return tagged(0x0112, orientation)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def headers(
    height: int = 200,
    width: int = 300,
    *,
    bits: int = 8,
    names: tuple[int, ...] = (1, 2, 3),
    before: bytes = b"",
) -> bytes:
    """Return the start, a baseline frame's header and the end of a file."""
    frame = bytes([bits]) + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    frame += bytes([len(names)]) + b"".join(bytes([name, 0x11, 0]) for name in names)
    return b"\xff\xd8" + before + segment(0xC0, frame) + b"\xff\xd9"


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 301), (64, 64), (40, 50), (2000, 30)])
def test_pixels_are_pillows_within_the_rounding(mode: str, shape: tuple[int, int]) -> None:
    """Another resize would shift every embedding of the nodes that have a GPU."""
    preprocess = preprocess_of(mode)
    data = jpeg(shape)
    found = DeviceJpegs(preprocess, CPU).decode([data, data])
    expected = load(data, preprocess, is_scaled=False).astype(int)
    assert found.shape == (2, 64, 64, 3)
    assert found.dtype == np.uint8
    difference = np.abs(found[0].astype(int) - expected)
    assert difference.max() <= 4
    assert difference.mean() < 0.5
    np.testing.assert_array_equal(found[0], found[1])


def test_height_width_and_interpolation_are_the_encoders() -> None:
    """A square size and one interpolation hide it where they are mixed up or left out."""
    preprocess, data = preprocess_of("squash", (48, 64), "bilinear"), jpeg()
    found = DeviceJpegs(preprocess, CPU).decode([data])
    assert found.shape == (1, 48, 64, 3)
    expected = load(data, preprocess, is_scaled=False).astype(int)
    assert np.abs(found[0].astype(int) - expected).max() <= 4


def test_every_plain_picture_of_the_corpus_is_the_one_that_pillow_sees() -> None:
    """A decoder that shrugs a truncated file off would cost its row the reason."""
    decoder, num_plain = DeviceJpegs(preprocess_of(), CPU), 0
    for specimen in picture_corpus():
        if not is_plain(specimen.data):
            continue
        num_plain += 1
        try:
            found = decoder.decode([specimen.data])[0].astype(int)
        except RuntimeError:
            continue  # then it is Pillow's
        assert specimen.is_readable, specimen.name
        expected = load(specimen.data, preprocess_of(), is_scaled=False).astype(int)
        assert np.abs(found - expected).mean() < 2, specimen.name
    assert num_plain >= 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff\xd9",
        jpeg()[:-2],
        jpeg() + b"\0",
        jpeg(mode="CMYK"),
        jpeg(mode="L"),
        jpeg(progressive=True),
        turned(6),
        turned(3),
        turned(0),
        jpeg(xmp=b"<x:xmpmeta><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>"),
        jpeg()[:2] + b"\xff\xe1\x00\x0eExif\0\0broken" + jpeg()[2:],
        jpeg()[:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0" + jpeg()[2:],  # transform 0: RGB
        picture_bytes(),
        headers(4001, 4000),  # too many pixels
        headers(1, 101),  # too long
        headers(0, 0),
        headers(bits=12),
        headers(names=(82, 71, 66)),
        headers(names=(1, 2, 3, 4)),
        headers(before=segment(0xDE, bytes(15))),  # hierarchical
        headers(before=segment(0xCC, bytes(2))),  # arithmetic
        headers()[:2] + segment(0xC0, b"\x08\0\x10\0\x10") + b"\xff\xd9",  # cut off
        headers()[:2] + b"\xff\xe0\x03\xe8\xff\xd9",  # a segment longer than the file
        headers()[:2] + b"\0" + headers()[3:],  # no marker
        b"\0\0" + headers()[2:],
        headers(before=segment(0xEE, b"Adobe\0d\0\0\0\0\2")),  # transform 2: YCCK
        headers(before=segment(0xEE, b"Adobe\0d")),  # of no transform
    ],
)
def test_what_can_be_read_in_two_ways_is_left_to_pillow(data: bytes) -> None:
    """Each of these is a picture to some decoder and another one, or none, to the next."""
    assert not is_plain(data)


@pytest.mark.parametrize(
    "data",
    [
        jpeg(),
        jpeg(subsampling=0),
        jpeg(optimize=True),
        jpeg(comment=b"a shoe"),
        jpeg(icc_profile=bytes(200)),
        headers(before=segment(0xDD, b"\0\10")),  # restart intervals
        headers(before=segment(0xEE, b"Adobe\0d\0\0\0\0\1")),
        turned(1),
        tagged(0x0131, "an editor"),
        jpeg(dpi=(300, 300)),
        headers(),
        headers(4000, 4000),  # as many pixels as allowed
        headers(1, 100),  # as long as allowed
        headers(before=segment(0xED, b"Photoshop 3.0\0")),
    ],
)
def test_what_shops_have_is_plain(data: bytes) -> None:
    """Else the device would stand idle."""
    assert is_plain(data)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("refuses", [False, True])
def test_device_and_workers_share_a_task_in_order(num_workers: int, refuses: bool) -> None:
    """A task of all kinds of files has each picture at its place, whoever decoded it."""
    decoder = Counting(PREPROCESS, CPU)
    decoder.refuses = refuses
    pictures = [jpeg((60 + i, 50)) if i % 3 else picture_bytes((i, 9, 9)) for i in range(12)]
    pictures[4], pictures[6] = b"<html>", turned(3)
    tasks = [(0, pictures), (1, []), (2, pictures[::-1]), (3, [pictures[1]]), (4, [pictures[0]])]
    with DecodePool(PREPROCESS, is_scaled=True, num_workers=num_workers, jpegs=decoder) as pool:
        for (tag, expected), outcome in zip(tasks, pool.decode(iter(tasks)), strict=True):
            assert outcome.tag == tag
            for picture, pixels, error in zip(
                expected, outcome.pixels, outcome.errors, strict=True
            ):
                if picture == b"<html>":
                    assert error is not None
                    continue
                assert error is None
                wanted = load(picture, PREPROCESS, is_scaled=True).astype(int)
                assert np.abs(pixels.astype(int) - wanted).mean() < 4
    num_plain = sum(is_plain(picture) for _, task in tasks for picture in task)
    assert decoder.num_decoded == (0 if refuses else num_plain)
    assert num_plain > 10


def test_the_commit_says_who_decoded_and_chunks_are_not_mixed(tmp_path: Path) -> None:
    """A run that goes on elsewhere must not leave half a shard of other pixels."""
    workspace = LocalStorage(tmp_path / "workspace")
    images: list[object] = [jpeg((60 + i, 50)) for i in range(40)]
    plan = plan_catalog(workspace, tmp_path / "catalog", image=images)
    by_pillow = LocalStorage(tmp_path / "pillow")
    copy_files(workspace, by_pillow)
    embed_here(by_pillow, plan)
    encoder = HashEncoder(plan.encoder)
    encoder.jpegs = Counting(plan.encoder.preprocess, CPU)
    embed_here(workspace, plan, encoder=encoder)
    commits = Cache(workspace, plan).commits
    assert {commit.decoder for commit in commits.values()} == {"nvjpeg"}
    assert {commit.decoder for commit in Cache(by_pillow, plan).commits.values()} == {"pillow"}
    assert encoder.jpegs.num_decoded == 40
    # A chunk of the first shard breaks and is mended where there is no GPU: the shard is redone.
    chunk = workspace.root / "cache" / "image.zarr" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    embed_here(workspace, plan)
    assert shard_state(workspace, plan, 0, checksums=True).commit.decoder == "pillow"
    here, there = files_of(workspace), files_of(by_pillow)
    first = [name for name in there if name.endswith(("image.zarr/c/0/0", "rows/00000.parquet"))]
    assert first
    assert all(here[name] == there[name] for name in first)


def test_a_device_is_used_only_where_embeddings_stay_the_same(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is the only thing between a driver's fault and 12M wrong embeddings."""
    encoder = load_encoder(resolve(f"local-dir:{small_model}", ""), "cpu", "float32")
    assert encoder.jpegs is None  # a CPU's own libjpeg is no faster than Pillow's
    assert device_jpegs(encoder, CPU) is not None
    monkeypatch.setattr(self_checks, "DeviceJpegs", _Upside)
    assert device_jpegs(encoder, CPU) is None
    monkeypatch.setattr(self_checks, "DeviceJpegs", _absent)
    assert device_jpegs(encoder, CPU) is None


class _Upside(DeviceJpegs):
    def decode(self, pictures: list[bytes]) -> np.ndarray:
        return np.ascontiguousarray(super().decode(pictures)[:, ::-1])


def _absent(*_: object) -> DeviceJpegs:
    raise ImportError("No module named 'torchcodec'")


def test_rare_ways_of_resizing_are_left_to_pillow() -> None:
    """They are open_clip's own, with rounding of their own."""
    assert is_supported(preprocess_of("squash", (64, 48)))
    assert not is_supported(preprocess_of("longest"))
    assert not is_supported(preprocess_of("shortest", (64, 48)))
