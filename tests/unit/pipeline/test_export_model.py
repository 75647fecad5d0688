"""A run as ONNX: the same probabilities, from a folder that explains itself."""

import csv
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

import cli
from cache.storage import LocalStorage
from pipeline import export_model as module
from pipeline.export_model import export_model
from pipeline.fit import fit
from pipeline.neighbors import write_neighbors
from pipeline.runs import find_folder, run_folder
from pipeline.tensors import FitData
from schemas.errors import CatalogError, ExportError, FitError
from schemas.plan import Plan
from schemas.run import FitConfig
from tests.fakes import CPU, fake_workspace

QUICK = {"epochs": 2, "batch_size": 32, "hidden_dim": 16, "lr": 0.01}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStorage, Plan]:
    workspace = LocalStorage(tmp_path_factory.mktemp("shop"))
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    return workspace, plan


@pytest.mark.parametrize(
    "options",
    [{}, {"modalities": "title"}, {"fusion": "concat", "num_hidden": 2}, {"fusion": "gated"}],
    ids=str,
)
def test_onnx_gives_the_networks_probabilities(
    shop: tuple[LocalStorage, Plan], tmp_path: Path, options: dict[str, object]
) -> None:
    """For any number of items, and with rows of NaN where a modality is missing."""
    workspace, plan = shop
    run = fit(workspace, plan, FitConfig(approach="4", **QUICK, **options), runtime=CPU)
    found = export_model(run_folder(workspace, run.name), tmp_path)
    assert found.num_items == 60
    assert found.max_difference <= 1e-4
    assert found.num_other_answers == 0
    config = FitConfig(approach="4", **QUICK, **options)
    network = run_folder(workspace, run.name).network(config, embed_dim=16, num_classes=6)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    for num_items in (1, 7, 2000):
        image_emb, title_emb = rng.standard_normal((2, num_items, 16)).astype(np.float32)
        image_ok, title_ok = rng.random((2, num_items)) < 0.7
        image_emb[~image_ok], title_emb[~title_ok] = np.nan, np.nan
        named = {
            "image_emb": image_emb,
            "title_emb": title_emb,
            "image_ok": image_ok,
            "title_ok": title_ok,
        }
        (probabilities,) = session.run(None, named)
        if options.get("modalities") == "title":
            image_ok = np.zeros_like(image_ok)
        inputs = (image_emb, title_emb, image_ok, title_ok)
        with torch.inference_mode():
            expected = network(*map(torch.from_numpy, inputs)).softmax(dim=1).numpy()
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_the_folder_explains_itself(
    shop: tuple[LocalStorage, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code runs as it stands, and its figures are the run's."""
    workspace, plan = shop
    run = fit(workspace, plan, FitConfig(approach="5", **QUICK), runtime=CPU)
    monkeypatch.chdir(tmp_path)
    place = ["--workspace", workspace.location]
    done = CliRunner().invoke(cli.main, ["export-model", run.name, *place])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "exported" / run.name
    monkeypatch.chdir(folder)
    card = Path("README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(code[1], names)
    assert len(names["best"]) == 2
    assert set(names["best"]) <= {f"Thing {i}" for i in range(6)}
    assert f"| top1 | {100 * run.metrics.top1:.2f} % |" in card
    data = FitData(workspace, plan, torch.device("cpu"))
    assert f"{len(data.train)} train, {len(data.val)} val, {len(data.test)} test items" in card
    assert "approach 5" in card
    assert not re.search(r"[{}]", card.replace(code[0], ""))
    labels = list(csv.DictReader(Path("labels.csv").read_text().splitlines()))
    assert [label["label"] for label in labels] == [str(i) for i in range(6)]
    assert Path("encoder.json").read_bytes() == run_folder(workspace, run.name).read("encoder.json")


def test_a_model_that_says_otherwise_is_not_written(
    shop: tuple[LocalStorage, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of the exporter must not change answers in silence."""
    workspace, plan = shop
    run = fit(workspace, plan, FitConfig(approach="1", **QUICK), runtime=CPU)
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(ExportError) as caught:
        export_model(run_folder(workspace, run.name), tmp_path / "out")
    assert "constraints.txt" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_files_of_others_are_left_alone(shop: tuple[LocalStorage, Plan], tmp_path: Path) -> None:
    """README.md and labels.csv are names that a catalog has too."""
    workspace, plan = shop
    run = fit(workspace, plan, FitConfig(approach="1", **QUICK), runtime=CPU)
    folder = run_folder(workspace, run.name)
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "labels.csv").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in ("catalog", "file"):
        with pytest.raises(ExportError):
            export_model(folder, tmp_path / place)
    with pytest.raises(CatalogError, match="local place only"):
        export_model(folder, "s3://bucket/out")
    for _ in range(2):  # an earlier export is replaced
        export_model(folder, tmp_path / "out")


def test_labels_that_swap_places_are_noticed() -> None:
    """Within the tolerance a different best label is still a different answer, but for a tie."""
    run = run_folder(LocalStorage(Path("/nowhere")), "a1")
    expected = np.array([[0.50004, 0.49996], [0.5, 0.5]], np.float32)
    with pytest.raises(ExportError, match="1 of 2"):
        module._compare(run, expected, expected[:, ::-1])
    assert module._compare(run, expected[1:], expected[1:] + np.float32([0, 1e-7])) == (
        pytest.approx(1e-7, rel=0.5),
        1,
    )


def test_only_a_finished_run_is_exported(shop: tuple[LocalStorage, Plan], tmp_path: Path) -> None:
    """What a run's folder lacks would be missing in production."""
    workspace, plan = shop
    run = fit(workspace, plan, FitConfig(approach="1", **QUICK, seed=3), runtime=CPU)
    (Path(run.folder) / "labels.parquet").unlink()
    with pytest.raises(FitError, match=r"labels\.parquet is missing"):
        export_model(find_folder(workspace, run.name), tmp_path)
