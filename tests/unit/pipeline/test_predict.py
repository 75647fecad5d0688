"""Answers for new items: the same as fit measured, from a run's folder and an encoder alone."""

import functools
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

import cli
from cache.reader import read_all_items
from cache.storage import LocalStorage
from pipeline.decisions import fit_temperature
from pipeline.encoder import Encoder, find_weights, load_encoder, resolve
from pipeline.evaluate import evaluate
from pipeline.fit import fit
from pipeline.items import find_items
from pipeline.neighbors import write_neighbors
from pipeline.predict import answer_table, predict_item, predict_items
from pipeline.predictions import Classifier
from pipeline.run_classifier import RunClassifier, open_classifier
from pipeline.runs import find_folder, load_run
from pipeline.tensors import FitData
from schemas.configs import to_json
from schemas.errors import CatalogError, ConfigError, EncoderError, FitError, TargetError
from schemas.plan import EncoderSpec, Plan
from schemas.run import EvaluateConfig, FitConfig, PredictConfig
from schemas.tables import PREDICTED
from tests.corpus import picture_corpus, title_corpus
from tests.fakes import CPU, HashEncoder, fake_spec, picture_bytes, write_catalog
from tests.unit.pipeline.test_embed import planned, run

NUM_ITEMS = 160
QUICK = {"epochs": 3, "batch_size": 16, "hidden_dim": 16, "lr": 0.01}
COLORS = [(40 * (i % 4), 7 * i % 256, 90) for i in range(NUM_ITEMS)]


@dataclass(frozen=True)
class Shop:
    """A catalog with two finished runs."""

    workspace: LocalStorage
    plan: Plan
    runs: tuple[str, str]

    def classifier(self, *runs: str, **options: object) -> RunClassifier:
        config = PredictConfig(runs=runs or self.runs[:1], **options)
        folders = [find_folder(self.workspace, each) for each in config.runs]
        return open_classifier(folders, config, torch.device("cpu"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Shop:
    workspace = LocalStorage(tmp_path_factory.mktemp("shop"))
    columns = {
        "title": [f"thing {i % 4} in {i % 7}" if i % 9 else None for i in range(NUM_ITEMS)],
        "image": [picture_bytes(color) if i % 8 else None for i, color in enumerate(COLORS)],
    }
    plan = planned(workspace, small_model, num_items=NUM_ITEMS, **columns)
    run(workspace, plan, with_labels=True, max_bad=1.0)
    write_neighbors(workspace, plan, k=2)
    configs = [FitConfig(approach=each, **QUICK) for each in ("1", "4")]
    one, other = [fit(workspace, plan, each, runtime=CPU).name for each in configs]
    return Shop(workspace, plan, (one, other))


@pytest.fixture
def copied(shop: Shop, tmp_path: Path) -> Path:
    """Give the first run's folder somewhere else, with nothing around it."""
    folder = tmp_path / "copied"
    shutil.copytree(shop.workspace.root / "runs" / shop.runs[0], folder)
    return folder


def table_of(path: Path, **columns: object) -> Path:
    """Write items to predict."""
    count = len(next(iter(columns.values())))
    ids = {"item_id": [f"new-{i}" for i in range(count)]}
    pq.write_table(pa.table(ids | columns), path)
    return path


def answers(
    classifier: RunClassifier, items: Path, encoder: HashEncoder | None = None, **options: object
) -> pa.Table:
    """Predict a table and read what was written."""
    source = find_items(items, None, is_labeled=False)
    out = items.parent / "answers.parquet"
    given = {"batch_size": 7, "num_workers": 0} | options
    predict_items(classifier, encoder or HashEncoder(), source, out, **given)
    return pq.read_table(out)


def test_items_so_long_known_get_the_answers_that_fit_measured(shop: Shop) -> None:
    """The acceptance test of a deployment: top1 here is the top1 that was reported."""
    catalog = shop.workspace.root / "catalog" / "items.parquet"
    found = answers(shop.classifier(num_top=4), catalog)
    assert found.schema.equals(PREDICTED)
    assert found["row"].to_pylist() == list(range(NUM_ITEMS))
    folder = shop.workspace.root / "runs" / shop.runs[0]
    kept = pq.read_table(folder / "predictions.parquet").to_pylist()
    by_id = {row["item_id"]: row for row in found.to_pylist()}
    for row in kept:
        now = by_id[row["item_id"]]
        assert now["top_label_ids"] == [f"L{label}" for label in row["top_labels"]]
        np.testing.assert_allclose(now["top_probabilities"], row["top_probabilities"], atol=1e-6)
    right = [by_id[row["item_id"]]["label_id"] == f"L{row['label']}" for row in kept]
    assert np.mean(right) == json.loads((folder / "metrics.json").read_text())["top1"]


def test_a_copied_folder_is_all_that_is_needed(shop: Shop, copied: Path) -> None:
    """A run goes into production without the workspace it was made in."""
    catalog = shop.workspace.root / "catalog" / "items.parquet"
    here = answers(shop.classifier(min_precision=0.3), catalog)
    there = answers(shop.classifier(str(copied), min_precision=0.3), catalog)
    assert here.equals(there)


def test_the_batch_size_and_workers_change_no_answer(shop: Shop) -> None:
    """What travels together must not matter."""
    catalog = shop.workspace.root / "catalog" / "items.parquet"
    first = answers(shop.classifier(), catalog)
    for options in ({"batch_size": 1}, {"batch_size": 300}, {"num_workers": 2}):
        other = answers(shop.classifier(), catalog, **options)
        for column in ("item_id", "label_id", "error", "top_label_ids"):
            assert other[column].equals(first[column]), (options, column)


def test_each_decision_and_mean_is_the_one_that_evaluate_measures(shop: Shop) -> None:
    """Two ways to the same answers: from the cache, and through the encoder."""
    catalog = shop.workspace.root / "catalog" / "items.parquet"
    for runs, decision in ((shop.runs, "argmax"), (shop.runs[:1], "crm")):
        config = EvaluateConfig(runs=runs, decision=decision)
        looked = evaluate(shop.workspace, shop.plan, config, device="cpu")
        found = answers(shop.classifier(*runs, decision=decision), catalog).to_pylist()
        by_id = {row["item_id"]: row for row in found}
        for row in pq.read_table(Path(looked.folder) / "predictions.parquet").to_pylist():
            if row["top_labels"]:
                assert by_id[row["item_id"]]["label_id"] == f"L{row['top_labels'][0]}"


def test_answers_below_the_threshold_of_val_are_withheld(shop: Shop) -> None:
    """Above it the share of right answers on val is what was asked for, and lower it is not."""
    data = FitData(shop.workspace, shop.plan, torch.device("cpu"))
    network, record = load_run(shop.workspace, shop.runs[0], data)
    (said,) = Classifier([(network, record.config.modalities)]).log_p(data, data.val)
    confidence = said.log_p[said.predicted].exp().max(dim=1)
    is_right = confidence.indices == data.labels[data.val][said.predicted]
    target = float(is_right.float().mean()) + 0.05
    classifier = shop.classifier(min_precision=target)
    assert float(is_right[confidence.values >= classifier.threshold].float().mean()) >= target
    lower = confidence.values[confidence.values < classifier.threshold].max()
    assert float(is_right[confidence.values >= lower].float().mean()) < target
    found = answers(classifier, shop.workspace.root / "catalog" / "items.parquet").to_pylist()
    assert {row["abstains"] for row in found} == {True, False}
    for row in found:
        has_answer = row["probability"] is not None
        assert row["abstains"] == (has_answer and row["probability"] < classifier.threshold)
        assert (row["label_id"] is None) == (row["abstains"] or not has_answer)
        assert bool(row["top_label_ids"]) == has_answer


def test_a_precision_out_of_reach_is_said_to_be(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a table in which everything abstains."""
    with pytest.raises(ConfigError) as wrong:
        PredictConfig(runs=("a",), min_precision=97)
    assert wrong.value.where == "--min-precision"
    monkeypatch.setattr("pipeline.run_classifier.choose_threshold", lambda *_: np.inf)
    with pytest.raises(FitError) as caught:
        shop.classifier(min_precision=0.99)
    assert "99.0%" in caught.value.what
    assert caught.value.where == "--min-precision"


def test_the_temperature_is_the_one_that_fits_val(shop: Shop) -> None:
    """So that 87% on the terminal means 87%."""
    data = FitData(shop.workspace, shop.plan, torch.device("cpu"))
    network, record = load_run(shop.workspace, shop.runs[0], data)
    (said,) = Classifier([(network, record.config.modalities)]).log_p(data, data.val)
    can = said.predicted
    temperature = fit_temperature(said.log_p[can], data.labels[data.val][can])
    catalog = shop.workspace.root / "catalog" / "items.parquet"
    plain = answers(shop.classifier(num_top=4), catalog).to_pylist()
    calibrated = answers(shop.classifier(num_top=4, calibrate=True), catalog).to_pylist()
    for one, other in zip(plain, calibrated, strict=True):
        scaled = np.array(one["top_probabilities"]) ** (1 / temperature)
        np.testing.assert_allclose(other["top_probabilities"], scaled / scaled.sum(), atol=1e-5)


def test_one_item_is_answered_like_a_row(shop: Shop, tmp_path: Path) -> None:
    """With a picture, a title or both; the table for a person names the shelves."""
    (tmp_path / "one.png").write_bytes(picture_bytes(COLORS[3]))
    items = table_of(
        tmp_path / "items.parquet",
        title=["thing 1", "thing 1", None],
        image=[(tmp_path / "one.png").read_bytes(), None, picture_bytes(COLORS[3])],
    )
    rows = answers(shop.classifier(), items).to_pylist()
    given = [("one.png", "thing 1"), (None, "thing 1"), ("one.png", None)]
    for row, (image, title) in zip(rows, given, strict=True):
        path = str(tmp_path / image) if image else None
        found = predict_item(shop.classifier(), HashEncoder(), image=path, title=title)
        assert found["top_label_ids"].to_pylist() == [row["top_label_ids"]]
        shown = answer_table(found, shop.classifier())
        assert shown.rows[0][1] == row["path"]
    abstaining = shop.classifier()
    object.__setattr__(abstaining, "threshold", 1.1)
    found = predict_item(abstaining, HashEncoder(), image=None, title="thing 1")
    assert found["label_id"].to_pylist() == [None]
    assert "abstains" in answer_table(found, abstaining).note


@pytest.mark.parametrize("name", ["absent.png", "broken.png", "."])
def test_a_picture_that_was_named_and_cannot_be_used_is_an_error(
    shop: Shop, tmp_path: Path, name: str
) -> None:
    """Who names one file wants an answer about that file."""
    (tmp_path / "broken.png").write_bytes(picture_bytes()[:40])
    path = str(tmp_path / name)
    with pytest.raises(CatalogError) as caught:
        predict_item(shop.classifier(), HashEncoder(), image=path, title="thing")
    assert caught.value.where == path


def test_every_odd_picture_and_title_keeps_its_row(shop: Shop, tmp_path: Path) -> None:
    """A row with a reason, or an answer; never a lost row, whatever stands beside it."""
    pictures, titles = picture_corpus(), title_corpus()
    ids = [each.name for each in pictures] + [name for name, _, _ in titles]
    columns = {
        "item_id": ids,
        "image": pa.array([each.data for each in pictures] + [None] * len(titles), pa.binary()),
        "title": pa.array([None] * len(pictures) + [text for _, text, _ in titles], pa.binary()),
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    found = answers(shop.classifier(), tmp_path / "items.parquet", num_workers=1).to_pylist()
    assert [row["item_id"] for row in found] == ids
    readable = [each.is_readable for each in pictures] + [is_ok for _, _, is_ok in titles]
    for row, is_ok, other in zip(
        found, readable, ["title"] * len(pictures) + ["image"] * len(titles), strict=True
    ):
        assert bool(row["top_label_ids"]) == (row["label_id"] is not None) == is_ok, row
        assert f"{other}: null" in row["error"]
        assert (row["error"] == f"{other}: null") == is_ok, row


@pytest.mark.parametrize("kind", ["titles.csv", "paths.csv", "pictures.tar"])
def test_items_need_no_label_and_may_lack_a_column(shop: Shop, tmp_path: Path, kind: str) -> None:
    """New items have no label, and a shop may have pictures or titles only."""
    (tmp_path / "a.png").write_bytes(picture_bytes(COLORS[5]))
    path = tmp_path / kind
    if kind == "titles.csv":
        pa.csv.write_csv(pa.table({"item_id": ["x", "y"], "title": ["thing 1", "thing 2"]}), path)
    elif kind == "paths.csv":
        table = pa.table({"item_id": ["x", "y"], "image_path": ["a.png", "../b.png"]})
        pa.csv.write_csv(table, path)
    else:
        with tarfile.open(path, "w") as tar:
            for name in ("x", "y"):
                data = (tmp_path / "a.png").read_bytes()
                member = tarfile.TarInfo(f"{name}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    found = answers(shop.classifier(), path).to_pylist()
    assert [row["item_id"] for row in found] == ["x", "y"]
    assert found[0]["label_id"] is not None
    if kind == "paths.csv":
        assert found[1]["error"] == "image: path leaves the image root; title: null"
        assert found[1]["label_id"] is None


def test_a_table_without_anything_to_predict_from_is_refused(tmp_path: Path) -> None:
    """The error names the columns that were expected."""
    pq.write_table(pa.table({"item_id": ["x"], "name": ["boot"]}), tmp_path / "items.parquet")
    with pytest.raises(CatalogError) as caught:
        find_items(tmp_path / "items.parquet", None, is_labeled=False)
    assert "title" in caught.value.what
    assert "image_path" in caught.value.what
    pq.write_table(pa.table({"title": ["boot"]}), tmp_path / "items.parquet")
    with pytest.raises(CatalogError, match="item_id"):
        find_items(tmp_path / "items.parquet", None, is_labeled=False)


def test_no_file_appears_before_it_is_complete(shop: Shop, tmp_path: Path) -> None:
    """Half a table must not be taken for the whole; an older one stays until then."""
    items = table_of(tmp_path / "items.parquet", title=["thing 1"] * 20)
    answers(shop.classifier(), items)
    before = (tmp_path / "answers.parquet").read_bytes()

    class Failing(HashEncoder):
        def encode_texts(self, texts: object, batch_size: int = 64) -> np.ndarray:
            if self.num_texts:
                raise KeyboardInterrupt
            return super().encode_texts(texts, batch_size)

    with pytest.raises(KeyboardInterrupt):
        answers(shop.classifier(), items, Failing())
    assert (tmp_path / "answers.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.parquet", "items.parquet"]


def test_answers_never_replace_the_items(shop: Shop, tmp_path: Path) -> None:
    """A slip of the keyboard must not cost the catalog."""
    items = table_of(tmp_path / "items.parquet", title=["thing"])
    source = find_items(items, None, is_labeled=False)
    (tmp_path / "link.parquet").symlink_to(items)
    (tmp_path / "folder.parquet").mkdir()
    names = ("items.parquet", "link.parquet", "answers.csv", "folder.parquet")
    for out in (*(tmp_path / name for name in names), "s3://bucket/answers.parquet"):
        with pytest.raises(CatalogError):
            predict_items(shop.classifier(), HashEncoder(), source, out, num_workers=0)


def test_runs_that_do_not_go_together_are_refused(
    shop: Shop, copied: Path, small_model: Path, tmp_path: Path
) -> None:
    """The mean over other labels, or of other embeddings, would be an answer to no question."""
    other = LocalStorage(tmp_path / "other")
    plan = planned(other, small_model, num_items=NUM_ITEMS, num_labels=3)
    run(other, plan, with_labels=True)
    write_neighbors(other, plan, k=2)
    stranger = fit(other, plan, FitConfig(approach="1", **QUICK), runtime=CPU).folder
    with pytest.raises(FitError) as caught:
        shop.classifier(shop.runs[0], stranger)
    assert caught.value.where == "--ensemble"
    (copied / "val.safetensors").unlink()
    with pytest.raises(FitError, match=r"val\.safetensors"):
        shop.classifier(str(copied))
    with pytest.raises(ConfigError):
        PredictConfig(runs=("a", "a"))
    with pytest.raises(ConfigError):
        PredictConfig(runs=("a",), num_top=0)
    with pytest.raises(TargetError, match="unknown decision"):
        shop.classifier(decision="neighbors")


def test_weights_are_found_where_they_are_on_this_machine(
    small_model: Path, tmp_path: Path
) -> None:
    """Plans name absolute paths, and production is another machine."""
    spec = resolve("shelfwise-tiny", "")
    moved = find_weights(_elsewhere(spec))
    assert moved == spec
    folder = resolve(f"local-dir:{small_model}", "")
    copy = tmp_path / "copy.safetensors"
    shutil.copy(folder.weights_path, copy)
    assert isinstance(load_encoder(find_weights(folder, str(copy)), "cpu"), Encoder)
    gone = _elsewhere(folder, model=f"local-dir:{tmp_path / 'gone'}")
    with pytest.raises(EncoderError) as caught:
        find_weights(gone)
    assert "--weights" in caught.value.fix
    with pytest.raises(EncoderError, match="no such file"):
        find_weights(folder, str(tmp_path / "absent.pt"))
    copy.write_bytes(b"other")
    with pytest.raises(EncoderError, match="sha256"):
        load_encoder(find_weights(folder, str(copy)), "cpu")


def _elsewhere(spec: EncoderSpec, **changes: str) -> EncoderSpec:
    return replace(spec, weights_path="/elsewhere/model.safetensors", **changes)


def test_what_cannot_be_answered_says_why(shop: Shop, tmp_path: Path) -> None:
    """A network that sees pictures only has nothing to say of a title."""
    config = FitConfig(approach="1", **QUICK, modalities="image")
    run_name = fit(shop.workspace, shop.plan, config, runtime=CPU).name
    classifier = shop.classifier(run_name)
    found = predict_item(classifier, HashEncoder(), image=None, title="thing")
    assert "nothing to predict from: image: not given" in answer_table(found, classifier).note
    config = replace(config, modalities="title")
    titles = shop.classifier(fit(shop.workspace, shop.plan, config, runtime=CPU).name)
    absent = str(tmp_path / "absent.png")
    assert predict_item(titles, HashEncoder(), image=absent, title="thing")["label_id"][0].as_py()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FitError, match=r"no commit\.json") as caught:
        shop.classifier(str(tmp_path / "empty"))
    assert caught.value.where == str(tmp_path / "empty")


def test_runs_from_before_and_after_a_change_go_together(shop: Shop, copied: Path) -> None:
    """Counts of items change every day; the labels are the same."""
    labels = pq.read_table(copied / "labels.parquet")
    counts = pa.array([7] * len(labels), pa.int64())
    labels = labels.set_column(labels.column_names.index("count"), "count", counts)
    pq.write_table(labels, copied / "labels.parquet")
    commit = json.loads((copied / "commit.json").read_text())
    sha256 = hashlib.sha256((copied / "labels.parquet").read_bytes()).hexdigest()
    commit["sha256"]["labels.parquet"] = sha256
    (copied / "commit.json").write_text(json.dumps(commit))
    assert len(shop.classifier(str(copied), shop.runs[1]).runs) == 2


def test_a_runs_folder_says_which_encoder_and_labels_it_has(shop: Shop) -> None:
    """Read by people and other programs, too."""
    folder = shop.workspace.root / "runs" / shop.runs[0]
    assert (folder / "encoder.json").read_text() == to_json(fake_spec())
    labels = pq.read_table(folder / "labels.parquet")
    assert labels["label_id"].to_pylist() == [f"L{i}" for i in range(4)]
    items = read_all_items(shop.workspace, shop.plan)
    num_val = items["split"].to_pylist().count("val")
    assert len(find_folder(shop.workspace, shop.runs[0]).val()["labels"]) == num_val


def test_the_terminal_gives_answers_or_one_clear_error(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables for people, JSON for programs, exit code 1 with what to do about it."""
    monkeypatch.setattr("pipeline.encoder.load_encoder", lambda *_: HashEncoder())
    monkeypatch.setattr("pipeline.encoder.find_weights", lambda spec, _: spec)
    name, place = shop.runs[0], ["--workspace", shop.workspace.location]
    call = functools.partial(CliRunner().invoke, cli.main)
    shown = call(["predict", name, "--title", "thing 1", *place])
    assert shown.exit_code == 0
    assert "Things > Thing" in shown.stdout
    found = json.loads(call(["predict", name, "--title", "thing 1", "--json", *place]).stdout)
    assert found["label_id"] == found["top_label_ids"][0]
    items = str(table_of(tmp_path / "items.parquet", title=["thing 1", None]))
    table = ["predict", name, "--items", items, "--out", str(tmp_path / "o.parquet"), *place]
    assert "nothing to predict from" in call(table).stdout
    counts = json.loads(call([*table, "--json"]).stdout)
    assert (counts["num_items"], counts["num_answered"]) == (2, 1)
    assert counts["errors"] == {"image: null": 2, "title: null": 1}
    failed = call(["predict", "no-such-run", "--title", "thing", *place])
    assert (failed.exit_code, name in failed.output) == (1, True)


def test_a_catalog_may_hold_more_columns(tmp_path: Path, shop: Shop) -> None:
    """The labeled catalog itself is a table of items too, as are others with a price."""
    items, _ = write_catalog(tmp_path, num_items=10, price=list(range(10)))
    assert len(answers(shop.classifier(), items)) == 10
