"""The import rules of DESIGN.md section 2, read from the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("schemas", "cache", "pipeline", "cli")
ONLY_IMPORTERS = {
    # Training the bundled encoder is not a stage: its script may use open_clip too.
    "open_clip": {"pipeline/encoder.py", "pipeline/demo/train_tiny.py"},
    "faiss": {"pipeline/search.py"},
    "zarr": {"cache/layout.py"},
    "obstore": {"cache/object_storage.py"},
    "fsspec": {"pipeline/locations.py"},
    "ray": {"pipeline/ray_engine.py"},
}
FORBIDDEN = {
    "schemas": ("cache", "pipeline", "cli", "torch", "faiss", "open_clip", "zarr"),
    "cache": ("pipeline", "cli", "torch", "faiss", "open_clip"),
    "pipeline": ("cli",),
}
PURE = ("pipeline/losses.py", "pipeline/fusion.py", "pipeline/metrics.py", "pipeline/targets")


def sources() -> list[Path]:
    folders = [ROOT / name for name in OURS if (ROOT / name).is_dir()]
    return [ROOT / "cli.py", *(path for folder in folders for path in folder.rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Return the modules a file imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def roots(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imported(path)}


@pytest.mark.parametrize("library", ONLY_IMPORTERS)
def test_a_library_has_one_importer(library: str) -> None:
    """So that replacing it, or its absence, touches one file."""
    found = {str(path.relative_to(ROOT)) for path in sources() if library in roots(path)}
    assert found
    assert found <= ONLY_IMPORTERS[library]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_stands_before_it(package: str) -> None:
    """Data moves one way: a lower layer that knows a higher one cannot be read alone."""
    for path in (ROOT / package).rglob("*.py"):
        assert not roots(path) & set(FORBIDDEN[package]), path


def test_pure_modules_touch_no_files_and_no_clock() -> None:
    """Losses, network, metrics and targets are mathematics: testable without a workspace."""
    for path in sources():
        if str(path.relative_to(ROOT)).startswith(PURE):
            assert not roots(path) & {"os", "pathlib", "time", "io", "shutil"}, path


def test_stages_do_not_call_each_other() -> None:
    """They hand over by artifact; only compare and the demo orchestrate."""
    names = ("plan", "embed", "clean", "neighbors", "codes", "fit", "compare", "predict")
    stages = {f"pipeline.{name}" for name in names}
    orchestrators = {"pipeline/compare.py", "pipeline/demo/demo.py", "cli.py"}
    for path in sources():
        if str(path.relative_to(ROOT)) not in orchestrators:
            assert not imported(path) & stages, path


def test_only_the_registry_knows_approaches_by_name() -> None:
    """No `if approach == ...` anywhere else: a new approach is one line in the registry."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                assert "approach ==" not in ast.unparse(node), path


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_help_loads_no_heavy_library() -> None:
    """`--help` has to answer at once, on a login node too."""
    run_help = (
        "from click.testing import CliRunner; import cli; "
        "CliRunner().invoke(cli.main, ['fit', '--help'])"
    )
    assert not loaded_after(run_help) & {"torch", "open_clip", "faiss", "zarr", "pyarrow", "numpy"}


def test_fit_loads_no_encoder_and_no_faiss() -> None:
    """Stage two runs where only torch is installed; the encoders are stage one's."""
    loaded = loaded_after("import pipeline.fit")
    assert "torch" in loaded
    assert not loaded & {"open_clip", "faiss"}
