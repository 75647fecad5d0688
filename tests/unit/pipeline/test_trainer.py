"""The training loop: stopped and resumed, cut in parts, shared, and when something is wrong."""

import json
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cache.storage import LocalStorage
from pipeline import fit as fit_module
from pipeline import runs, stopping
from pipeline.checkpoint import CHECKPOINT
from pipeline.codes import make_codes
from pipeline.fit import RunResult, fit, fit_all
from pipeline.fusion import FusionNetwork
from pipeline.neighbors import write_neighbors
from pipeline.stopping import Stop
from pipeline.tensors import FitData
from pipeline.trainer import Trainer
from schemas.errors import ConfigError, FitError, FitStoppedError, TargetError
from schemas.plan import Plan
from schemas.run import FitConfig, FitRuntime
from tests.fakes import CPU, fake_workspace

QUICK = FitConfig(approach="5", epochs=3, batch_size=32, hidden_dim=16, lr=0.01)
NUM_STEPS = 18  # 180 train items


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    make_codes(workspace, plan)
    return plan


@pytest.fixture(autouse=True)
def one_thread():
    """Sums of one thread and of two differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outcome(result: RunResult) -> tuple[bytes, ...]:
    """Return a run's files, without what is a time."""
    folder = Path(result.folder)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for line in lines:
        del line["fit/items_per_second"]
    files = [folder / name for name in ("model.safetensors", "metrics.json", "predictions.parquet")]
    return (json.dumps(lines).encode(), *(file.read_bytes() for file in files))


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ask to stop once a step was taken, as a signal would."""
    take = Trainer._step

    def count(self: Trainer, part: object) -> object:
        if self.step + 1 == step:
            self.stop.ask(signal.SIGTERM)
        return take(self, part)

    monkeypatch.setattr(Trainer, "_step", count)


def stop_in_the_middle(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave a run stopped after its seventh step."""
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(FitStoppedError):
            fit(workspace, plan, QUICK, runtime=CPU)


@pytest.mark.parametrize("residency", ["host", "stream"])
@pytest.mark.parametrize("approach", ["1", "5", "online", "codes"])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    workspace: LocalStorage,
    plan: Plan,
    approach: str,
    residency: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of an epoch, at its end, and twice."""
    config = replace(QUICK, approach=approach)
    runtime = replace(CPU, residency=residency)
    expected = outcome(fit(workspace, plan, config, runtime=runtime))
    for steps in ([1], [6], [7, 13], [NUM_STEPS]):
        folder = next((workspace.root / "runs").iterdir())
        (folder / "commit.json").unlink()
        going = runtime
        for step in steps:
            with monkeypatch.context() as patch:
                stop_after(patch, step)
                with pytest.raises(
                    FitStoppedError, match=f"SIGTERM after step {step} of"
                ) as caught:
                    fit(workspace, plan, config, runtime=going)
            assert "--resume" in caught.value.fix
            assert (folder / CHECKPOINT).exists()
            going = replace(runtime, resume=True)
        result = fit(workspace, plan, config, runtime=going)
        assert not result.is_reused
        assert outcome(result) == expected
        assert not (folder / CHECKPOINT).exists()


def test_without_resume_a_stopped_run_begins_anew(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And comes to the same; the log says what --resume would have saved."""
    stop_in_the_middle(workspace, plan, monkeypatch)
    steps: list[int] = []
    take = Trainer._step
    monkeypatch.setattr(
        Trainer, "_step", lambda self, part: (steps.append(self.step), take(self, part))[1]
    )
    fit(workspace, plan, QUICK, runtime=CPU)
    assert steps == list(range(NUM_STEPS))


def test_checkpoints_come_in_time(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every step if asked for, and none in a run that is shorter than their time."""
    places: list[str] = []
    monkeypatch.setattr(
        fit_module, "write_checkpoint", lambda workspace, place, *rest: places.append(place)
    )
    fit(workspace, plan, QUICK, runtime=replace(CPU, checkpoint_seconds=0))
    assert len(places) >= NUM_STEPS
    places.clear()
    fit(workspace, plan, replace(QUICK, seed=1), runtime=CPU)
    assert not places


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_checkpoint_that_cannot_be_used_is_not(
    workspace: LocalStorage, plan: Plan, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged, or of other inputs: the run begins anew, with the reason in the log."""
    expected = outcome(fit(workspace, plan, QUICK, runtime=CPU))
    folder = next((workspace.root / "runs").iterdir())
    (folder / "commit.json").unlink()
    stop_in_the_middle(workspace, plan, monkeypatch)
    if damage is None:
        write_neighbors(workspace, plan, k=2)
        write_neighbors(workspace, plan, k=3)
        stale = json.loads((folder / "config.json").read_text())["inputs"]["graph_sha256"]
        content = (folder / CHECKPOINT).read_bytes()
        (folder / CHECKPOINT).write_bytes(content.replace(stale.encode(), b"0" * len(stale)))
    else:
        (folder / CHECKPOINT).write_bytes(damage)
    result = fit(workspace, plan, QUICK, runtime=replace(CPU, resume=True))
    assert outcome(result) == expected


def test_a_checkpoint_of_another_way_to_compute_is_refused(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed items come in another order: going on would repeat some and lose others."""
    stop_in_the_middle(workspace, plan, monkeypatch)
    runtime = replace(CPU, resume=True, residency="stream")
    with pytest.raises(FitError, match="residency host -> stream") as caught:
        fit(workspace, plan, QUICK, runtime=runtime)
    assert caught.value.where.endswith(CHECKPOINT)
    assert Path(caught.value.where).exists()
    assert not fit(workspace, plan, QUICK, runtime=replace(runtime, residency="host")).is_reused


def test_a_checkpoint_of_another_network_is_refused(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by other code: one clear error, with the file to delete."""
    stop_in_the_middle(workspace, plan, monkeypatch)
    file = next((workspace.root / "runs").glob(f"*/{CHECKPOINT}"))
    tensors = load_file(file)
    tensors["network.mlp.9.weight"] = tensors.pop("network.mlp.3.weight")
    save_file(tensors, file)
    with pytest.raises(FitError, match="does not fit this run") as caught:
        fit(workspace, plan, QUICK, runtime=replace(CPU, resume=True))
    assert str(file) in caught.value.fix


def test_a_run_that_was_finished_meanwhile_is_taken_as_it_is(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again once the lease is held."""
    expected = outcome(fit(workspace, plan, QUICK, runtime=CPU))
    look, answers = fit_module._reused, iter([False, True])
    monkeypatch.setattr(fit_module, "_reused", lambda *rest: look(*rest) if next(answers) else None)
    found = fit(workspace, plan, QUICK, runtime=CPU)
    assert found.is_reused
    assert outcome(found) == expected


def test_a_signal_ends_a_run_with_a_checkpoint(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real SIGINT, while the main thread trains; the old handlers are back afterwards."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    take = Trainer._step

    def interrupted(self: Trainer, part: object) -> object:
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, part)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(FitStoppedError, match="SIGINT"):
        fit(workspace, plan, QUICK, runtime=CPU)
    assert next((workspace.root / "runs").glob(f"*/{CHECKPOINT}"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_signal_interrupts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For who cannot wait for a step of a streamed window."""
    stop = Stop()
    stop.ask(signal.SIGINT)
    stop.ask(signal.SIGINT)  # at once: torchrun handing on what the terminal sent to all
    monkeypatch.setattr(stopping, "_AGAIN_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        stop.ask(signal.SIGINT)


@pytest.mark.parametrize("accumulate", [2, 3, 100])
def test_a_batch_in_parts_takes_the_same_steps(
    workspace: LocalStorage, plan: Plan, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same losses and dropout; only sums run in another order, in float32 on any machine."""
    monkeypatch.setattr(runs, "has_bfloat16", lambda device: False)
    whole = fit(workspace, plan, QUICK, runtime=CPU)
    expected = load_file(Path(whole.folder) / "model.safetensors")
    history = json.loads(outcome(whole)[0])
    (Path(whole.folder) / "commit.json").unlink()
    parts = fit(workspace, plan, QUICK, runtime=replace(CPU, accumulate=accumulate))
    for row, other in zip(json.loads(outcome(parts)[0]), history, strict=True):
        assert row["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)
    for name, value in load_file(Path(parts.folder) / "model.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0.01, atol=0.003)


def test_several_runs_at_once_come_to_what_each_would_alone(
    workspace: LocalStorage, plan: Plan
) -> None:
    """Two at a time, with one thread each; the finished one is taken as it is."""
    configs = [replace(QUICK, approach=name, seed=seed) for name in "15" for seed in (0, 1)]
    alone = [fit(workspace, plan, config, runtime=CPU) for config in configs]
    expected = [outcome(result) for result in alone]
    for result in alone[1:]:
        (Path(result.folder) / "commit.json").unlink()
    torch.set_num_threads(2)
    data = FitData(workspace, plan, torch.device("cpu"))
    found = fit_all(workspace, data, configs, runtime=CPU)
    assert torch.get_num_threads() == 2
    assert [result.name for result in found] == [result.name for result in alone]
    assert [result.is_reused for result in found] == [True, False, False, False]
    assert [outcome(result) for result in found] == expected


def test_an_error_of_one_run_stops_the_others(workspace: LocalStorage, plan: Plan) -> None:
    """They keep a checkpoint, so that nothing is lost by it."""
    torch.set_num_threads(2)
    data = FitData(workspace, plan, torch.device("cpu"))
    long = replace(QUICK, epochs=2000, patience=2000, lr=1e-4)
    configs = [long, replace(QUICK, lr=1e30), replace(long, seed=1)]
    with pytest.raises(FitError, match="diverges"):
        fit_all(workspace, data, configs, runtime=CPU)
    assert 1 <= len(list((workspace.root / "runs").glob(f"*/{CHECKPOINT}"))) <= 2
    assert not list((workspace.root / "runs").glob("*/commit.json"))


def test_bad_options_of_one_run_are_found_before_any_is_made(
    workspace: LocalStorage, plan: Plan
) -> None:
    """Not after hours of the others."""
    data = FitData(workspace, plan, torch.device("cpu"))
    with pytest.raises(TargetError):
        fit_all(workspace, data, [QUICK, replace(QUICK, approach="2", alpha=1.0)], runtime=CPU)
    assert data.residency is None


def test_a_loss_that_is_not_finite_names_step_and_learning_rate(
    workspace: LocalStorage, plan: Plan
) -> None:
    """The first such step, not the end of the epoch."""
    with pytest.raises(FitError, match=r"no longer finite in step [2-4]\b") as caught:
        fit(workspace, plan, replace(QUICK, lr=1e30), runtime=CPU)
    assert "--lr 1e+30" in caught.value.where
    assert "1e+29" in caught.value.fix


def test_a_loss_that_only_explodes_is_divergence_too(workspace: LocalStorage, plan: Plan) -> None:
    """A finite loss far above that of guessing would train on for hours."""
    with pytest.raises(FitError, match="the mean loss of the epoch is") as caught:
        fit(workspace, plan, replace(QUICK, lr=30.0), runtime=CPU)
    assert "--lr" in caught.value.fix


def test_the_network_that_says_nothing_is_no_divergence(
    workspace: LocalStorage, plan: Plan
) -> None:
    """A learning rate that is far too small is not an error."""
    result = fit(workspace, plan, replace(QUICK, lr=1e-9, epochs=1), runtime=CPU)
    assert result.metrics.top1 < 0.9


def allocate_too_much(self: FusionNetwork, *inputs: torch.Tensor) -> torch.Tensor:
    return torch.empty(1 << 60)


def test_out_of_memory_says_what_would_fit(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator's own error, turned into one that helps."""
    monkeypatch.setattr(FusionNetwork, "heads", allocate_too_much)
    for accumulate, advice in ((1, 2), (4, 8), (100, 32)):
        with pytest.raises(FitError, match=r"out of memory in step 1, batch of 32 items") as caught:
            fit(workspace, plan, QUICK, runtime=replace(CPU, accumulate=accumulate))
        assert f"--accumulate {advice} " in caught.value.fix
        assert f"--batch-size {32 // advice}" in caught.value.fix


def test_another_error_of_torch_is_passed_on(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours must not be blamed on memory."""
    monkeypatch.setattr(FusionNetwork, "heads", lambda self, *inputs: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        fit(workspace, plan, QUICK, runtime=CPU)


def test_a_class_without_train_items_is_no_trouble(workspace: LocalStorage) -> None:
    """A new category has none; every approach still has a row for it."""
    plan = fake_workspace(workspace, num_items=300, num_labels=6)
    write_neighbors(workspace, plan, k=3)
    data = FitData(workspace, plan, torch.device("cpu"))
    data.train = data.train[data.labels[data.train] != 2]
    configs = [replace(QUICK, approach=name) for name in ("2", "5", "online")]
    for result in fit_all(workspace, data, configs, runtime=CPU):
        assert math.isfinite(result.metrics.nll)


def test_training_off_the_main_thread_leaves_signals_alone(
    workspace: LocalStorage, plan: Plan
) -> None:
    """A notebook or server may call it from anywhere."""
    found: list[RunResult] = []
    thread = threading.Thread(target=lambda: found.append(fit(workspace, plan, QUICK, runtime=CPU)))
    thread.start()
    thread.join()
    assert found[0].metrics.top1 > 0.5


@pytest.mark.parametrize(
    "make", [lambda: FitRuntime(accumulate=0), lambda: FitRuntime(residency="disk")]
)
def test_a_runtime_out_of_range_is_refused(make: Callable[[], FitRuntime]) -> None:
    """With the option named."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.where.startswith("--")


def test_memory_and_disk_train_equally_well(workspace: LocalStorage, plan: Plan) -> None:
    """Items come in another order, nothing else."""
    found = {}
    for residency in ("host", "stream"):
        results = []
        for seed in range(3):
            config = replace(QUICK, seed=seed)
            result = fit(workspace, plan, config, runtime=replace(CPU, residency=residency))
            assert json.loads((Path(result.folder) / "config.json").read_text())["residency"] == (
                residency
            )
            (Path(result.folder) / "commit.json").unlink()
            results.append(result.metrics.top1)
        found[residency] = np.mean(results)
    assert found["host"] == pytest.approx(found["stream"], abs=0.05)
