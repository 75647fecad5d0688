"""The command line: help, exit codes, and what it says before a plan exists."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import cli
from cache.storage import LocalStorage
from cache.writer import write_labels
from pipeline.neighbors import write_neighbors
from schemas.configs import to_dict
from schemas.run import FitConfig
from tests.fakes import fake_plan, fake_workspace

COMMANDS = sorted(cli.main.commands)
ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(each) for each in arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    """The example is what a newcomer copies, so it names the command itself."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"python cli.py {command}" in result.output
    assert "Example:" in result.output
    for parameter in cli.main.commands[command].params:
        if isinstance(parameter, click.Argument):  # has no help of its own
            assert parameter.name.upper() in cli.main.commands[command].help
        else:
            assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize(
    "arguments",
    [["embed", "--shard", "0"], ["neighbors"], ["codes"], ["fit", "--approach", "5"], ["status"]],
)
def test_before_a_plan_each_call_says_which_command_makes_one(
    tmp_path: Path, arguments: list[str]
) -> None:
    """One message, exit code 1, no stack trace."""
    result = run(*arguments, "--workspace", tmp_path)
    assert result.exit_code == 1
    assert "no plan yet" in result.output
    assert "python cli.py plan --items" in result.output
    assert str(tmp_path.resolve()) in result.output


def test_the_workspace_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set once in a job script; every command prints the one it resolved."""
    monkeypatch.setenv("SHELFWISE_WORKSPACE", str(tmp_path / "here"))
    assert f"workspace: {tmp_path / 'here'}" in run("status").output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["embed"], "say what to embed"),
        (["embed", "--shard", "0", "--all"], "only one of"),
        (["embed", "--shards", "3-"], "neither a shard nor A-B"),
        (["embed", "--shards", "0,5-3"], "neither a shard nor A-B"),
        (["embed", "--shard", "0", "--gpus-per-worker", "0.5"], "--gpus-per-worker"),
        (["embed", "--all", "--gpus-per-worker", "2"], "--gpus-per-worker"),
        (["fit"], "--approach"),
        (["fit", "--approach", "1", "--fusion", "sum"], "sum"),
        (["predict", "a5"], "say what to predict"),
        (["predict", "a5", "--title", "Boot", "--items", "new.parquet"], "say what to predict"),
        (["predict", "a5", "--items", "new.parquet"], "--items and --out"),
        (["predict", "a5", "--title", "Boot", "--out", "a.parquet"], "--items and --out"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage_has_exit_code_2(tmp_path: Path, arguments: list[str], problem: str) -> None:
    """As schedulers and shells expect."""
    fake_plan(LocalStorage(tmp_path), num_items=10)
    workspace = [] if arguments == ["nonsense"] else ["--workspace", str(tmp_path)]
    result = run(*arguments, *workspace)
    assert result.exit_code == 2
    assert problem in result.output


@pytest.mark.parametrize(
    ("devices", "num_shards", "started"),
    [
        (["cuda:0", "cuda:1"], 9, ["cuda:0", "cuda:1"] * 4),
        (["cuda:0", "cuda:1"], 3, ["cuda:0", "cuda:1", "cuda:0"]),
        (["cpu"], 9, None),
    ],
)
def test_several_processes_may_share_a_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: list[str],
    num_shards: int,
    started: list[str] | None,
) -> None:
    """A small encoder waits for its pictures; no process without a shard, no CPU shared so."""
    fake_plan(LocalStorage(tmp_path), num_items=num_shards, shard_rows=1, chunk_rows=1)
    found: list[list[str]] = []
    monkeypatch.setattr("pipeline.device.all_devices", lambda: list(devices))
    monkeypatch.setattr(
        "pipeline.embed.embed_on_devices",
        lambda workspace, shards, devices, work: found.append(list(devices)),
    )
    result = run("embed", "--all", "--gpus-per-worker", "0.25", "--workspace", str(tmp_path))
    assert found == ([started] if started else [])
    assert started or "has no GPU" in result.output


def test_shards_are_chosen_with_both_ends() -> None:
    """0-15 is sixteen shards, as in a Slurm array."""
    assert list(cli._chosen_shards(None, "0-15", None) or []) == list(range(16))
    assert list(cli._chosen_shards(None, "0-2,7,1", None) or []) == [0, 1, 2, 7]
    assert list(cli._chosen_shards(7, None, None) or []) == [7]
    assert list(cli._chosen_shards(None, None, 3) or []) == [0, 1, 2]
    assert cli._chosen_shards(None, None, None) is None


def test_the_defaults_of_fit_are_those_of_its_config() -> None:
    """Else `fit --approach 5` on the terminal and FitConfig in a script are different runs."""
    defaults = to_dict(FitConfig(approach="5"))
    command = cli.main.commands["fit"]
    context = command.make_context("fit", ["--approach", "5"])
    shared = defaults.keys() & context.params.keys()
    assert len(shared) > 10
    assert {name: context.params[name] for name in shared} == {
        name: defaults[name] for name in shared
    }


def test_every_command_the_readme_names_exists() -> None:
    """A README that lies costs more than none."""
    named = set(re.findall(r"python cli\.py ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= set(COMMANDS)


def test_results_can_be_had_as_json(tmp_path: Path) -> None:
    """For programs: nothing but JSON on stdout, the same as in the report's file."""
    workspace = LocalStorage(tmp_path)
    write_neighbors(workspace, fake_workspace(workspace), k=3)
    quick = ["--epochs", "1", "--device", "cpu", "--json", "--workspace", str(tmp_path)]
    compared = run("compare", "--approaches", "1,4", "--seeds", "1", *quick)
    assert json.loads(compared.stdout) == json.loads(
        (tmp_path / "report" / "compare.json").read_text()
    )
    name = next(path.name for path in (tmp_path / "runs").glob("a4-*"))
    looked = run("evaluate", f"runs/{name}/", *quick[2:])
    assert json.loads(looked.stdout) == json.loads(
        (tmp_path / "report" / name / "metrics.json").read_text()
    )


def test_codes_says_what_it_made_and_how_to_train_on_it(tmp_path: Path) -> None:
    """With the options that the next command needs, and only those."""
    workspace = LocalStorage(tmp_path)
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    made = run("codes", "--workspace", tmp_path)
    assert made.exit_code == 0, made.output
    assert re.search(r"labels that share their code +0", made.output)
    assert f"next: python cli.py fit --approach codes --workspace {tmp_path}" in made.output
    other = run("codes", "--bits", "16", "--workspace", tmp_path)
    assert "fit --approach codes --codes embedding-16 --workspace" in other.output
    write_labels(
        workspace,
        plan,
        np.random.default_rng(5).standard_normal((6, 16)),
        compute_dtype="float32",
        seconds=0.0,
    )
    status = run("status", "--workspace", tmp_path).output
    assert "label codes embedding-16: the codes are stale: label_emb_crc32c changed" in status
    refused = run("codes", "--bits", "0", "--workspace", tmp_path)
    assert refused.exit_code == 1
    assert "--bits" in refused.output


@pytest.mark.slow
def test_a_plan_that_is_stopped_leaves_no_temporary_files(tmp_path: Path) -> None:
    """A job that runs out of time would else leave gigabytes on a node's disk each time."""
    temporary, num_items = tmp_path / "temporary", 2_000_000
    temporary.mkdir()
    numbers = pa.array(np.arange(num_items)).cast(pa.string())
    labels = pa.array(["L0"]).take(pa.array(np.zeros(num_items, int)))
    table = {"item_id": numbers, "title": numbers, "image_path": numbers, "label_id": labels}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    (tmp_path / "labels.csv").write_text("label_id,name\nL0,Thing\nL1,Other\n")
    files = ["--items", str(tmp_path / "items.parquet"), "--labels", str(tmp_path / "labels.csv")]
    options = ["--model", "shelfwise-tiny", "--workspace", str(tmp_path / "workspace")]
    with subprocess.Popen(
        [sys.executable, "cli.py", "plan", *files, *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as process:
        while process.poll() is None and not list(temporary.glob("shelfwise-plan-*/*.arrow")):
            time.sleep(0.05)
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not list(temporary.glob("shelfwise-plan-*"))
    assert not (tmp_path / "workspace").exists()
