"""The page that shows what compare found: its numbers, its pictures, and what it refuses."""

import base64
import io
import json
import logging
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

import cli
from cache.reader import read_labels, read_plan
from cache.storage import LocalStorage
from pipeline import report as report_module
from pipeline.clean import clean
from pipeline.compare import compare
from pipeline.items import find_items
from pipeline.label_graph import read_graph
from pipeline.neighbors import write_neighbors
from pipeline.report import write_report
from pipeline.report_data import ShownRun, categories, choose_mistakes
from pipeline.taxonomy import Taxonomy
from pipeline.thumbnails import read_thumbnails
from schemas.clean import CleanConfig
from schemas.errors import NeighborsError, ReportError
from schemas.graph import NeighborGraph
from schemas.plan import ItemsSource
from schemas.run import FitConfig
from schemas.tables import ITEMS
from tests.fakes import CPU, picture_bytes
from tests.unit.pipeline.test_embed import planned, run

NUM_ITEMS = 160
QUICK = FitConfig(approach="1", epochs=2, batch_size=16, hidden_dim=16, lr=0.01)
ODD_TITLE = 'odd </script><script>alert("x")</script> & <b>bold</b>'


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """Return a workspace with pictures in which approaches 1 and 4 were compared."""
    workspace = LocalStorage(tmp_path_factory.mktemp("compared"))
    rng = np.random.default_rng(0)
    colors = [tuple(map(int, rng.integers(0, 256, 3))) for _ in range(NUM_ITEMS)]
    columns = {
        "title": [ODD_TITLE if i % 3 else None for i in range(NUM_ITEMS)],
        "image": [picture_bytes(color) if i % 5 else b"" for i, color in enumerate(colors)],
    }
    plan = planned(workspace, small_model, num_items=NUM_ITEMS, **columns)
    run(workspace, plan, with_labels=True, max_bad=1.0)
    write_neighbors(workspace, plan, k=2)
    compare(workspace, plan, approaches=["1", "4"], num_seeds=2, config=QUICK, runtime=CPU)
    write_report(workspace)
    return workspace.root


@pytest.fixture
def copy(compared: Path, tmp_path: Path) -> LocalStorage:
    """Return the workspace somewhere else, to be changed."""
    shutil.copytree(compared, tmp_path / "copy")
    return LocalStorage(tmp_path / "copy")


class Page(HTMLParser):
    """What stands in the page, as a browser would read it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.data: dict = {}
        self.tables: list[list[list[str]]] = []
        self.urls: list[str] = []
        self.ids: list[str] = []
        self._in_data = self._in_cell = False
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._in_data = tag == "script" and values.get("id") == "data"
        self.urls += [
            values[name] or "" for name in ("src", "href", "xlink:href") if name in values
        ]
        self.ids += [values["id"]] if values.get("id") else []
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data, self._in_data = json.loads(data), False
        if self._in_cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def page(compared: Path) -> Page:
    return Page(compared / "report" / "index.html")


def test_the_tables_are_those_of_compare_cell_by_cell(compared: Path, page: Page) -> None:
    saved = json.loads((compared / "report" / "compare.json").read_text())
    for found, expected in zip(page.tables[:4], saved["tables"], strict=True):
        assert [cell.strip() for cell in found[0]] == expected["columns"]
        rows = [[cell.strip() for cell in row] for row in expected["rows"]]
        assert [[cell.strip() for cell in row] for row in found[1:]] == rows


def test_nothing_is_asked_of_another_place(page: Page) -> None:
    """It opens from disk: links lead into the page, pictures are in it."""
    assert page.urls
    assert all(url.startswith(("#", "data:")) for url in page.urls)
    script_and_style = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page.text)
    assert not re.findall(r"(?:https?:)?//[a-z]|@import|url\((?!#)", script_and_style)
    assert len(set(page.ids)) == len(page.ids)


def test_the_gallery_holds_every_item_that_some_approach_gets_wrong(
    compared: Path, page: Page
) -> None:
    """Truth, answers, probabilities, distances and nearness, from the runs' own files."""
    workspace = LocalStorage(compared)
    plan = read_plan(workspace)
    graph = read_graph(workspace, plan)
    taxonomy = Taxonomy(read_labels(workspace, plan)["path"].to_pylist())
    shown = page.data["mistakes"]
    tables = [
        pq.read_table(compared / "runs" / each["run"] / "predictions.parquet").to_pylist()
        for each in page.data["approaches"]
    ]
    first = [[row["top_labels"][:1] for row in table] for table in tables]
    truth = [row["label"] for row in tables[0]]
    wrong = [i for i, label in enumerate(truth) if any(answers[i] != [label] for answers in first)]
    assert shown["id"] == [tables[0][i]["item_id"] for i in wrong]
    assert shown["label"] == [truth[i] for i in wrong]
    for table, said in zip(tables, shown["runs"], strict=True):
        for place, i in enumerate(wrong):
            row = table[i]
            if not row["top_labels"]:
                assert set(said["top"][place]) == {-1}
                continue
            assert said["top"][place] == row["top_labels"][:5]
            expected = [round(1000 * p) for p in row["top_probabilities"][:5]]
            assert said["thousandths"][place] == pytest.approx(expected, abs=1)
            answer = row["top_labels"][0]
            assert said["distance"][place] == taxonomy.distance(answer, truth[i])
            assert said["near"][place] == (answer in graph.neighbors[truth[i]])


def test_categories_count_what_the_predictions_say(compared: Path, page: Page) -> None:
    found = page.data["categories"]
    for each, counted in zip(page.data["approaches"], found["runs"], strict=True):
        rows = pq.read_table(compared / "runs" / each["run"] / "predictions.parquet").to_pylist()
        answered = [row for row in rows if row["top_labels"]]
        for label in range(len(found["id"])):
            items = [row for row in rows if row["label"] == label]
            answers = [row for row in answered if row["top_labels"][0] == label]
            assert found["items"][label] == len(items)
            assert counted["answers"][label] == len(answers)
            assert counted["right"][label] == sum(row["label"] == label for row in answers)
            others = [row["top_labels"][0] for row in items if row["top_labels"]]
            for other, times in counted["confused"].get(str(label), []):
                assert times == others.count(other)
                assert other != label


def test_pictures_and_titles_are_the_items_own(compared: Path, page: Page) -> None:
    """A title with markup stays text; an item without a picture says why."""
    shown = page.data["mistakes"]
    assert ODD_TITLE in shown["title"]
    assert page.text.count("<script") == 2
    pictures = 0
    for item_id, picture, problem in zip(
        shown["id"], shown["picture"], shown["problem"], strict=True
    ):
        number = int(re.sub(r"\D", "", item_id))
        if number % 5 == 0:
            assert (picture, problem) == ("", "empty")
            continue
        with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
            found = np.asarray(image.convert("RGB")).reshape(-1, 3).mean(axis=0)
        original = np.random.default_rng(0).integers(0, 256, (NUM_ITEMS, 3))[number]
        assert np.abs(found - original).max() < 12
        pictures += 1
    assert pictures


def test_the_data_part_counts_bad_rows_and_what_clean_removed(
    copy: LocalStorage, caplog: pytest.LogCaptureFixture
) -> None:
    plan = read_plan(copy)
    clean(copy, plan, CleanConfig(), device="cpu")
    write_report(copy)
    items, bad, cleaned = Page(copy.root / "report" / "index.html").tables[4:]
    assert sum(int(row[1]) for row in items[1:]) == NUM_ITEMS
    assert ["image: empty", str(NUM_ITEMS // 5)] in bad
    assert cleaned[0][0] == "reason"
    (copy.root / "clean.parquet").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        write_report(copy)
    assert "leaves out what clean found" in caplog.text


def test_pictures_out_of_reach_leave_a_reason_each(copy: LocalStorage, page: Page) -> None:
    """The catalog may be gone or changed by the time somebody looks."""
    path = Path(read_plan(copy).items.files[0].path)
    moved = path.rename(path.with_suffix(".moved"))
    try:
        found = write_report(copy)
    finally:
        moved.rename(path)
    assert found.num_pictures == 0
    assert found.num_shown == len(page.data["mistakes"]["id"])
    assert all(Page(Path(found.path)).data["mistakes"]["problem"])


def test_a_page_that_would_be_too_large_shows_some_of_the_pictures(
    copy: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = write_report(copy)
    monkeypatch.setattr(report_module, "_MOST_PICTURE_BYTES", 300)
    found = write_report(copy)
    assert 0 < found.num_pictures < everything.num_pictures
    assert found.num_bytes < everything.num_bytes
    assert write_report(copy, most_mistakes=3).num_shown == 3


def test_more_mistakes_than_are_shown_are_taken_evenly() -> None:
    labels = np.zeros(100, np.int64)
    shown = ShownRun(
        title="1",
        name="a1",
        rows=np.arange(100),
        labels=labels,
        top_labels=np.where(np.arange(100) % 2, 0, 1)[:, None],
        top_probabilities=np.ones((100, 1), np.float32),
    )
    places, total = choose_mistakes([shown], 5)
    assert total == 50
    assert places.tolist() == [0, 24, 48, 72, 98]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("missing", ("nothing was compared yet", "run `python cli.py compare`")),
        ("damaged", ("cannot be read", "run `python cli.py compare` again")),
        ("older", ("older version: 'tables'", "run `python cli.py compare` again")),
        ("no run", ("has 2 approaches, and runs of 0", "run `python cli.py compare` again")),
        ("no figure", ("a figure of compare is missing", "run `python cli.py compare` again")),
        ("other figure", ("not the one that was drawn", "run `python cli.py compare` again")),
    ],
)
def test_without_compares_result_it_says_what_to_run(
    copy: LocalStorage, broken: str, expected: tuple[str, str]
) -> None:
    path = copy.root / "report" / "compare.json"
    if broken == "missing":
        path.unlink()
    elif broken == "damaged":
        path.write_text("{")
    elif broken == "older":
        record = json.loads(path.read_text())
        del record["tables"]
        path.write_text(json.dumps(record))
    elif broken == "no run":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seeds": {}}))
    elif broken == "no figure":
        (copy.root / "report" / "front.svg").unlink()
    else:
        shutil.copy(copy.root / "report" / "compare.svg", copy.root / "report" / "front.svg")
    with pytest.raises(ReportError) as caught:
        write_report(copy)
    assert expected[0] in caught.value.what
    assert caught.value.fix == expected[1]


def test_a_run_made_anew_since_is_refused(copy: LocalStorage) -> None:
    """Tables of one run beside mistakes of another would be a lie."""
    plan = read_plan(copy)
    compared = json.loads((copy.root / "report" / "compare.json").read_text())
    name = compared["seeds"]["1"][0]
    compared["runs"][name]["top1"] += 0.01
    (copy.root / "report" / "compare.json").write_text(json.dumps(compared))
    with pytest.raises(ReportError, match=r"changed since: metrics"):
        write_report(copy)
    write_neighbors(copy, plan, k=1)
    with pytest.raises(ReportError, match=r"changed since: graph, metrics"):
        write_report(copy)
    (copy.root / "neighbors.parquet").unlink()
    with pytest.raises(NeighborsError):
        write_report(copy)


def test_runs_and_the_page_go_by_the_same_items(copy: LocalStorage) -> None:
    """Train counts of a catalog that was cleaned otherwise since would be another catalog's."""
    plan = read_plan(copy)
    clean(copy, plan, CleanConfig(), device="cpu")
    compare(copy, plan, approaches=["1", "4"], num_seeds=1, config=QUICK, runtime=CPU)
    write_report(copy)
    (copy.root / "clean.parquet").unlink()
    with pytest.raises(ReportError, match="what clean left out is not what") as caught:
        write_report(copy)
    assert caught.value.fix == "run `python cli.py compare` again"


def test_another_view_of_the_same_runs_leaves_the_figures_alone(copy: LocalStorage) -> None:
    """`--exclude-true` has files of its own, pictures too."""
    options = {"approaches": ["1", "4"], "num_seeds": 2, "config": QUICK, "runtime": CPU}
    before = {path: path.read_bytes() for path in (copy.root / "report").glob("*.svg")}
    found = compare(copy, read_plan(copy), exclude_true=True, **options)
    assert all("-exclude-true." in name for name in found.files)
    assert {path: path.read_bytes() for path in before} == before
    write_report(copy)


def test_a_missing_catalog_file_costs_only_its_own_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a catalog may be on a disk that is not there today."""
    files = []
    for number in range(2):
        table = pa.table({"item_id": [f"{number}"], "title": ["a"], "image": [picture_bytes()]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
        files += find_items(tmp_path / f"{number}.parquet", None, is_labeled=False).files
    (tmp_path / "0.parquet").unlink()
    columns = {"row": [0, 1], "item_id": ["0", "1"], "source_file": [0, 1], "source_row": [0, 0]}
    items = pa.table(columns | {"label": [0, 0], "split": ["test", "test"]}).cast(ITEMS)
    with caplog.at_level(logging.WARNING):
        gone, here = read_thumbnails(
            ItemsSource(files=tuple(files)),
            items,
            pixels=32,
            picture_format="WEBP",
            quality=50,
            what="test",
        )
    assert (gone.picture, gone.problem) == (b"", "items file is gone: 0.parquet")
    assert (here.title, here.problem) == ("a", "")
    assert here.picture
    assert "1 items are shown without pictures" in caplog.text


def test_items_without_an_answer_are_counted() -> None:
    """Else a category whose items were all unreadable would look as if nothing went wrong."""
    names = pa.table({"label_id": ["A", "B"], "name": ["A", "B"], "path": [None, None]})
    graph = NeighborGraph(np.array([[1], [0]]), np.ones((2, 1), np.float32))
    shown = ShownRun(
        title="1",
        name="a1",
        rows=np.arange(3),
        labels=np.array([0, 0, 1]),
        top_labels=np.array([[0], [-1], [-1]]),
        top_probabilities=np.ones((3, 1), np.float32),
    )
    (found,) = categories([shown], names, graph, None, np.zeros(2, np.int64))["runs"]
    assert found["unanswered"] == [1, 1]
    assert (found["right"], found["answers"], found["confused"]) == ([1, 0], [1, 0], {})


def test_the_command_says_what_it_wrote(copy: LocalStorage) -> None:
    found = CliRunner().invoke(cli.main, ["report", "--workspace", str(copy.root)])
    assert found.exit_code == 0, found.output
    assert re.search(r"\d MB; (\d+) of \1 mistakes, \d+ with a picture\n", found.stdout)
    assert f"written: {copy.root}/report/index.html" in found.stdout
