"""The experiment on synthetic images: what its arms share, and what is said of them."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cache.storage import LocalStorage
from cli import main
from pipeline.synthetic import experiment, synthetic
from pipeline.synthetic.experiment import (
    ARMS,
    MULTI_CLASS,
    MULTI_LABEL,
    WRONG,
    Curve,
    SmallNetwork,
    SyntheticConfig,
    class_scores,
    codes_of,
    train,
)
from pipeline.synthetic.report import (
    ArmResult,
    over_seeds,
    smoothed,
    sooner,
    steps_interval,
    verdict,
)
from pipeline.synthetic.shapes import CIRCLE_SQUARE, RECTANGLE_TRIANGLE, SETS
from pipeline.synthetic.synthetic import run_synthetic
from schemas.errors import ConfigError, FitError

CONFIG = SyntheticConfig(images=CIRCLE_SQUARE, arm=MULTI_LABEL, seed=0, epochs=1)


def test_the_class_of_the_likeliest_code_is_answered() -> None:
    """By the product of the bits' probabilities, not by the number of bits that agree."""
    codes = torch.from_numpy(SETS[RECTANGLE_TRIANGLE].codes)
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.1], [-3.0, 0.2, 0.3, 0.4]])
    p = torch.sigmoid(logits)
    for row, scores in zip(p.tolist(), class_scores(logits, codes).tolist(), strict=True):
        for score, code in zip(scores, codes.tolist(), strict=True):
            factors = [q if is_set else 1 - q for q, is_set in zip(row, code, strict=True)]
            assert score == pytest.approx(math.log(math.prod(factors)), rel=1e-4)
    assert class_scores(logits, codes).argmax(dim=1).tolist() == [0, 3]


def test_arms_of_a_seed_begin_with_the_same_features_and_see_the_same_batches() -> None:
    """Else a difference could come from luck that only one arm had."""
    weights = []
    for num_outputs in (3, 2):
        torch.manual_seed(0)
        weights.append(SmallNetwork(num_outputs).features.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])
    orders = [
        torch.cat(list(experiment._batches(replace(CONFIG, arm=arm, epochs=2), 100)))
        for arm in ARMS
    ]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])
    assert sorted(orders[0][:100].tolist()) == list(range(100))
    assert not torch.equal(orders[0][:100], orders[0][100:])


def test_every_seed_takes_another_of_the_wrong_codes() -> None:
    """All of them get their turn; the right ones never do."""
    right = SETS[CIRCLE_SQUARE].codes
    configs = [replace(CONFIG, arm=WRONG, seed=seed) for seed in range(4)]
    found = [codes_of(config) for config in configs]
    assert len({each.numpy().tobytes() for each in found if each is not None}) == 4
    assert codes_of(replace(CONFIG, arm=MULTI_CLASS)) is None
    assert np.array_equal(codes_of(CONFIG), right)


def test_a_run_is_the_same_again() -> None:
    """To the last digit: what `run_synthetic` reuses is what it would make."""
    assert train(CONFIG) == train(CONFIG)


def test_training_learns() -> None:
    """Five passes tell two circles from two squares; chance is a third."""
    curve = train(replace(CONFIG, epochs=5, arm=MULTI_CLASS))
    assert curve.steps[:2] == (10, 20)
    assert curve.losses[-1] < curve.losses[0] / 2
    assert max(curve.accuracies) > 0.6


def test_smoothing_is_tensorboards() -> None:
    """Weights 0.6^k of what came before, summing to 1 from the first point on."""
    values = np.array([0.0, 1.0, 1.0, 0.5])
    expected = []
    for last in range(4):
        weights = [0.6 ** (last - place) for place in range(last + 1)]
        expected.append(np.dot(weights, values[: last + 1]) / sum(weights))
    np.testing.assert_allclose(smoothed(values), expected)
    np.testing.assert_allclose(smoothed(np.stack([values, values]))[1], expected)


def results(*finals: float) -> ArmResult:
    """Return an arm whose seeds end at these accuracies, by a straight line from 0."""
    rising = np.linspace(0, 1, 50)
    return ArmResult(
        accuracies=np.array([final * rising for final in finals]), steps=10.0 * np.arange(1, 51)
    )


def test_the_verdict_follows_the_intervals() -> None:
    """Better by the same in every seed is a win; better in half of them is nothing."""
    found = {
        MULTI_CLASS: results(0.6, 0.7, 0.8, 0.9),
        MULTI_LABEL: results(0.7, 0.8, 0.9, 1.0),
        WRONG: results(0.7, 0.6, 0.9, 0.8),
    }
    said = verdict(found)
    assert said.startswith("Right codes win at the end and win over the run.")
    assert said.endswith(
        "Wrong codes show no difference at the end and show no difference over the run."
    )
    found[WRONG] = results(0.4, 0.5, 0.6, 0.7)
    assert "Wrong codes lose at the end" in verdict(found)


def test_steps_to_the_target_are_those_of_the_smoothed_curve() -> None:
    """A curve that never gets there is infinite, not left out."""
    found = results(1.0, 0.85)
    steps = found.steps_to_target
    curve = smoothed(found.accuracies[0])
    assert steps[0] == found.steps[np.flatnonzero(curve >= 0.9)[0]]
    assert math.isinf(steps[1])
    assert steps_interval(np.array([10.0, 20.0, 30.0]))[0] == 20.0
    assert math.isinf(steps_interval(np.array([10.0, np.inf, np.inf]))[0])


def test_who_reaches_the_target_sooner_is_counted_seed_by_seed() -> None:
    """One that never does is later; two that never do are neither."""
    one, other = results(1.0, 1.0, 0.85, 0.85), results(0.95, 1.0, 1.0, 0.85)
    assert sooner(one, other) == (1, 1)


def test_an_interval_over_seeds_is_students() -> None:
    """Of 1, 2, 3 the half-width is 4.303 / sqrt(3)."""
    found = over_seeds(np.array([1.0, 2.0, 3.0]))
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert over_seeds(np.ones(3)).high == 1.0


def fake_train(config: SyntheticConfig) -> Curve:
    """Return a run without training one: its accuracy says which it is."""
    share = 0.5 + 0.1 * ARMS.index(config.arm) + 0.01 * config.seed
    return Curve(config=config, steps=(10, 20), losses=(1.0, 0.5), accuracies=(0.1, share))


def test_runs_that_are_there_are_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More seeds cost only themselves; a damaged or other run is made again."""
    made: list[SyntheticConfig] = []

    def train_all(configs: list[SyntheticConfig]) -> list[Curve]:
        made.extend(configs)
        return [fake_train(config) for config in reversed(configs)]

    monkeypatch.setattr(synthetic, "_train_all", train_all)
    folder = LocalStorage(tmp_path)
    first = run_synthetic(folder, num_seeds=2)
    assert len(made) == 12
    assert first.record[CIRCLE_SQUARE][WRONG]["final"] == [0.7, 0.71]
    assert run_synthetic(folder, num_seeds=2).record == first.record
    assert len(made) == 12
    run_synthetic(folder, num_seeds=3)
    assert {config.seed for config in made[12:]} == {2}
    damaged = tmp_path / "runs" / CIRCLE_SQUARE / "multi-label-s1" / "result.json"
    damaged.write_text(damaged.read_text()[:50])
    run_synthetic(folder, num_seeds=2, epochs=None)
    assert [(each.arm, each.seed) for each in made[18:]] == [(MULTI_LABEL, 1)]
    run_synthetic(folder, num_seeds=2, epochs=3)
    assert len(made) == 31  # other epochs: all of them
    for file in first.files:
        assert Path(file).stat().st_size > 0
    events = list((tmp_path / "runs").rglob("events.out.tfevents.*"))
    assert len(events) == 30  # one a run
    assert run_synthetic(folder, num_seeds=2).record == first.record
    assert len(made) == 31  # a quick look took nobody's place
    short = damaged.read_text().replace("0.1,", "")
    damaged.write_text(short)
    run_synthetic(folder, num_seeds=2)
    assert len(made) == 32


def kill_itself(config: SyntheticConfig) -> Curve:
    os.kill(os.getpid(), 9)
    raise AssertionError(config)


def test_a_killed_worker_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory is short: what is finished is kept, and the message says so."""
    monkeypatch.setattr(synthetic, "train", kill_itself)
    with pytest.raises(FitError, match="was killed"):
        list(synthetic._train_all([CONFIG]))


def test_the_command_prints_tables_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a workspace; too few seeds are an error of ours."""
    monkeypatch.setattr(synthetic, "_train_all", lambda configs: map(fake_train, configs))
    call = ["synthetic", "--seeds", "2", "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(main, call)
    assert shown.exit_code == 0
    assert "multi-label, wrong codes" in shown.stdout
    printed = CliRunner().invoke(main, [*call, "--json"])
    assert json.loads(printed.stdout)[RECTANGLE_TRIANGLE][MULTI_CLASS]["steps_to_90"] == [None] * 2
    for option in (["--seeds", "1"], ["--epochs", "0"]):
        refused = CliRunner().invoke(main, [*call, *option])
        assert refused.exit_code == 1
        assert option[0] in refused.output
    with pytest.raises(ConfigError):
        run_synthetic(LocalStorage(tmp_path), num_seeds=0)
