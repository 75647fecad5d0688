"""The corpus of odd pictures and titles, each against what the docs promise for it."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.items import find_items, read_rows
from pipeline.pictures import PictureError, decode, load, to_input
from tests.corpus import TOLERANCE, Specimen, picture_corpus, spot_color, title_corpus
from tests.fakes import PREPROCESS

ROOT = Path(__file__).parents[3]
MEMORY_LIMIT = 1_500_000_000
MAX_GROWTH = 600_000_000

READABLE = [specimen for specimen in picture_corpus() if specimen.is_readable]
UNREADABLE = [specimen for specimen in picture_corpus() if not specimen.is_readable]

# VmHWM counts from the start of this program; ru_maxrss would begin at its parent's size.
DECODE_ALL = """
import json, pathlib, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
from PIL import Image
from pipeline.pictures import PictureError, decode

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

Image.init()
last, growth, pictures = peak(), {}, []
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        decode(path.read_bytes())
        pictures.append(path.name)
    except PictureError:
        pass
    growth[path.name], last = peak() - last, peak()
print(json.dumps({"growth": growth, "pictures": pictures}))
"""


def by_name(specimen: Specimen) -> str:
    return specimen.name


@pytest.mark.parametrize("specimen", READABLE, ids=by_name)
def test_a_readable_picture_has_its_color(specimen: Specimen) -> None:
    """Whatever a shop saves a product as, the product is what is embedded."""
    image = decode(specimen.data)
    assert image.mode == "RGB"
    if specimen.color is not None:
        off = [abs(a - b) for a, b in zip(spot_color(image), specimen.color, strict=True)]
        assert max(off) <= TOLERANCE, (spot_color(image), specimen.color)


@pytest.mark.parametrize("specimen", UNREADABLE, ids=by_name)
def test_an_unreadable_picture_has_a_reason(specimen: Specimen) -> None:
    """One bad file costs its own row; any other exception would cost the run."""
    with pytest.raises(PictureError) as error:
        decode(specimen.data)
    assert re.search(specimen.reason, str(error.value).lower()), error.value


@pytest.mark.parametrize("specimen", READABLE, ids=by_name)
def test_the_encoder_gets_all_of_an_unscaled_picture(specimen: Specimen) -> None:
    """What a decoder turned or cut while loading must not be cropped again."""
    found = load(specimen.data, PREPROCESS, is_scaled=False)
    np.testing.assert_array_equal(found, to_input(decode(specimen.data), PREPROCESS))


def test_all_bombs_together_fit_in_memory(tmp_path: Path) -> None:
    """A few kB must not ask for a node's memory: many pictures are decoded at once."""
    for specimen in UNREADABLE:
        (tmp_path / specimen.name).write_bytes(specimen.data)
    done = subprocess.run(
        [sys.executable, "-c", DECODE_ALL, str(tmp_path), str(MEMORY_LIMIT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    largest = sorted(found["growth"].items(), key=lambda item: -item[1])[:3]
    assert sum(found["growth"].values()) < MAX_GROWTH, largest
    assert found["pictures"] == []


def test_the_corpus_is_small_and_has_every_kind() -> None:
    """It travels into other tests; a specimen that is lost must not go unnoticed."""
    specimens = picture_corpus()
    assert len({specimen.name for specimen in specimens}) == len(specimens) >= 80
    assert sum(len(specimen.data) for specimen in specimens) < 20_000_000
    assert all(specimen.is_readable != bool(specimen.reason) for specimen in specimens)
    bombs = [specimen for specimen in specimens if specimen.name.startswith("bomb-")]
    assert len(bombs) >= 16
    assert max(len(bomb.data) for bomb in bombs) < 250_000


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_spot_tells_every_orientation(orientation: int) -> None:
    """Otherwise a rotation that is ignored would pass as one that is applied."""
    name = f"jpeg-exif-orientation-{orientation}.jpg"
    data = next(specimen.data for specimen in READABLE if specimen.name == name)
    with Image.open(io.BytesIO(data)) as stored:
        red, _, blue = spot_color(stored)
    assert red < blue


def test_titles_are_read_or_have_a_reason(tmp_path: Path) -> None:
    """A title is text as it stands, or it is said why not; never a guess at another encoding."""
    titles = title_corpus()
    assert len({name for name, _, _ in titles}) == len(titles) >= 20
    columns = {
        "item_id": [name for name, _, _ in titles],
        "title": pa.array([data for _, data, _ in titles], pa.binary()),
        "label_id": ["L"] * len(titles),
        "image": pa.nulls(len(titles), pa.binary()),
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    source = find_items(tmp_path / "items.parquet", None)
    found = [item for batch in read_rows(source, 0, 0, len(titles)) for item in batch]
    for item, (name, data, is_readable) in zip(found, titles, strict=True):
        if is_readable:
            assert (item.title.encode(), item.title_error) == (data, None), name
        else:
            assert item.title is None, name
            assert re.search("null|utf-8", item.title_error.lower()), name
