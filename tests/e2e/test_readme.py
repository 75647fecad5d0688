"""The README's commands, run as they stand, on a small generated catalog."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.demo.catalog import write_catalog

ROOT = Path(__file__).parents[2]
NUM_ITEMS = 900


def cli(arguments: list[str], folder: Path) -> str:
    """Run cli.py as a user does and return stdout; stderr shows where it fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def readme_commands() -> list[list[str]]:
    """Return the arguments of every `python cli.py ...` line in the README's code blocks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [
        shlex.split(line, comments=True)[2:] for line in lines if line.startswith("python cli.py ")
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the catalog that the README's commands name, only smaller."""
    folder = tmp_path_factory.mktemp("readme")
    write_catalog(folder / "demo-workspace" / "catalog", num_items=NUM_ITEMS, seed=3)
    return folder


@pytest.mark.timeout(300)
def test_the_readmes_commands_run_in_order(folder: Path) -> None:
    """Copied from the page into a terminal, one after another."""
    commands = readme_commands()
    assert len(commands) >= 8
    for arguments in commands:
        if arguments[0] == "demo":
            continue  # below, with fewer items
        quick = ["--epochs", "3"] if arguments[0] in ("fit", "compare") else []
        cli([*arguments, *quick], folder)
    report = json.loads((folder / "workspace" / "report" / "compare.json").read_text())
    trained = [line["title"][:2] for line in report["entries"] if line["kind"] == "approach"]
    assert trained == ["1.", "2.", "3.", "4.", "5."]


@pytest.mark.timeout(300)
def test_the_demo_runs_and_a_second_time_reuses_everything(tmp_path: Path) -> None:
    """The first command a stranger types, and what it says at its end."""
    arguments = ["demo", "--items", str(NUM_ITEMS), "--workspace", "demo"]
    first = cli(arguments, tmp_path)
    for words in ("Table 1", "Table 2", "Cowboy Boots", "index.html", "next:"):
        assert words in first
    runs = tmp_path / "demo" / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    assert len([path for path in before if path.name == "metrics.json"]) == 5
    cli(arguments, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_makefiles_targets_call_what_the_readme_says() -> None:
    """`make demo` and `make test` are the two commands of the first screen."""
    for target, command in (("demo", "cli.py demo"), ("test", "pytest tests/e2e")):
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert command in done.stdout


def test_the_file_map_names_what_is_there() -> None:
    """A file map that is out of date sends a newcomer to the wrong door."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## File map\n\n```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    named = [line.split()[0] for line in block[1].splitlines() if line and line[0] != " "]
    assert len(named) > 8
    for name in named:
        assert (ROOT / name).exists(), name
    modules = {path.name for path in (ROOT / "pipeline").glob("*.py")} - {"__init__.py"}
    assert modules <= set(re.findall(r"\b\w+\.py\b", block[1])), "a module is missing in the map"
