"""Tables and pictures of the experiment on synthetic images.

S seeds, L looks at the test images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from matplotlib.figure import Figure
from scipy import stats

from pipeline.figures import png
from pipeline.significance import Change, mcnemar
from pipeline.synthetic.experiment import ARMS, MULTI_CLASS, MULTI_LABEL, WRONG, Curve
from pipeline.synthetic.shapes import SETS, make_images
from pipeline.text_table import TextTable

TARGET = 0.9
SMOOTHING = 0.6  # TensorBoard's default, as the paper's plots have it
_FINAL_SHARE = 10  # the last tenth of the looks
_SAMPLES = 10
_COLORS = {MULTI_CLASS: "#444444", MULTI_LABEL: "#1f5fa8", WRONG: "#c0392b"}
_RESAMPLES = 2000

Curves = Mapping[str, Sequence[Curve]]


def smoothed(values: Float[np.ndarray, "... L"]) -> Float64[np.ndarray, "... L"]:
    """Return what TensorBoard draws: an exponential mean that forgets its start at 0.

    m_t = 0.6 m_(t-1) + 0.4 x_t, divided by 1 - 0.6^t
    """
    found = np.empty(values.shape)
    mean = np.zeros(values.shape[:-1])
    for place in range(values.shape[-1]):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * values[..., place]
        found[..., place] = mean / (1 - SMOOTHING ** (place + 1))
    return found


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """What an arm reached in each seed."""

    accuracies: Float64[np.ndarray, "S L"]
    """At each look, 0..1."""
    steps: Float64[np.ndarray, " L"]

    @property
    def final(self) -> Float64[np.ndarray, " S"]:
        """Mean over the last tenth of the looks."""
        return self.accuracies[:, -max(1, len(self.steps) // _FINAL_SHARE) :].mean(axis=1)

    @property
    def speed(self) -> Float64[np.ndarray, " S"]:
        """Mean over all looks: the area under the curve."""
        return self.accuracies.mean(axis=1)

    @property
    def steps_to_target(self) -> Float64[np.ndarray, " S"]:
        """The first look at which the smoothed accuracy is 90% or more; infinite without one."""
        is_there = smoothed(self.accuracies) >= TARGET
        return np.where(is_there.any(axis=1), self.steps[is_there.argmax(axis=1)], np.inf)


def arm_results(curves: Curves) -> dict[str, ArmResult]:
    """Return the arms of one set."""
    return {
        arm: ArmResult(
            accuracies=np.array([curve.accuracies for curve in found]),
            steps=np.array(found[0].steps, float),
        )
        for arm, found in curves.items()
    }


def over_seeds(values: Float[np.ndarray, " S"]) -> Change:
    """Return the mean with its 95% interval by Student's t."""
    mean, error = float(values.mean()), float(stats.sem(values))
    if error == 0:
        return Change(mean, mean, mean)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return Change(mean, float(low), float(high))


def results_table(name: str, curves: Curves) -> TextTable:
    """Return one line an arm; changes are means of paired differences over the seeds."""
    found = arm_results(curves)
    first = found[MULTI_CLASS]
    rows = []
    for arm, result in found.items():
        changes = [
            "" if result is first else _change(over_seeds(100 * (values - others)))
            for values, others in ((result.final, first.final), (result.speed, first.speed))
        ]
        rows.append(
            (
                arm,
                _interval(over_seeds(100 * result.final)),
                changes[0],
                _interval(over_seeds(100 * result.speed)),
                changes[1],
                _steps(result.steps_to_target),
                "" if result is first else _sooner(result, first),
            )
        )
    num_seeds = len(first.final)
    return TextTable(
        title=f"{name}: accuracy on the test images in percent, change against multi-class",
        columns=(
            "",
            "at the end",
            "change",
            "mean over the run",
            "change",
            "steps to 90%",
            "sooner",
        ),
        rows=tuple(rows),
        note=f"{verdict(found)}\n{num_seeds} seeds; 95% intervals over seeds, of changes paired, "
        "not adjusted for their number; at the end: mean of the last tenth of the looks; steps: "
        "median over seeds of the smoothed curve, and how many reach it; sooner: seeds that do so "
        "before and after multi-class, sign test",
    )


def verdict(found: Mapping[str, ArmResult]) -> str:
    """Say what the intervals say of the paper's finding."""
    first = found[MULTI_CLASS]
    words = []
    for arm, who in ((MULTI_LABEL, "Right codes"), (WRONG, "Wrong codes")):
        each = found[arm]
        at_end = _direction(over_seeds(each.final - first.final))
        over_run = _direction(over_seeds(each.speed - first.speed))
        words.append(f"{who} {at_end} at the end and {over_run} over the run.")
    return " ".join(words)


def _direction(change: Change) -> str:
    if change.low > 0:
        return "win"
    return "lose" if change.high < 0 else "show no difference"


def sooner(one: ArmResult, other: ArmResult) -> tuple[int, int]:
    """Return in how many seeds one reaches 90% before, and after, the other."""
    a, b = one.steps_to_target, other.steps_to_target
    return int((a < b).sum()), int((a > b).sum())


def _sooner(one: ArmResult, other: ArmResult) -> str:
    before, after = sooner(one, other)
    return f"{before} : {after}, p {mcnemar(before, after):.3f}"


def _interval(found: Change) -> str:
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def _change(found: Change) -> str:
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def _steps(values: Float64[np.ndarray, " S"]) -> str:
    median, low, high = steps_interval(values)
    num_reached = int(np.isfinite(values).sum())
    said = ""
    if np.isfinite(median):
        said = f"{median:.0f} [{low:.0f}, {f'{high:.0f}' if np.isfinite(high) else 'never'}], "
    return f"{said}{num_reached} of {len(values)}"


def steps_interval(values: Float64[np.ndarray, " S"]) -> tuple[float, float, float]:
    """Return the median with its 95% bootstrap interval; infinite where too few got there."""
    rng = np.random.default_rng(0)
    drawn = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))]
    medians = np.sort(_median(drawn))
    low, high = medians[[int(0.025 * _RESAMPLES), int(0.975 * _RESAMPLES) - 1]]
    return float(_median(values[None])[0]), float(low), float(high)


def _median(values: Float64[np.ndarray, "R S"]) -> Float64[np.ndarray, " R"]:
    # The upper of the two middle ones: a mean of a number and infinity would hide the number.
    return np.sort(values, axis=1)[:, values.shape[1] // 2]


def record(curves: Mapping[str, Curves]) -> dict[str, Any]:
    """Return everything as plain numbers, for JSON; never reached is null."""
    plain: dict[str, Any] = {}
    for name, arms in curves.items():
        found = arm_results(arms)
        first = found[MULTI_CLASS]
        plain[name] = {"verdict": verdict(found)}
        for arm, result in found.items():
            steps = result.steps_to_target
            plain[name][arm] = {
                "final": result.final.tolist(),
                "speed": result.speed.tolist(),
                "steps_to_90": [None if np.isinf(each) else int(each) for each in steps],
                "steps_to_90_median": [
                    None if np.isinf(each) else each for each in steps_interval(steps)
                ],
                "sooner_and_later": sooner(result, first),
                "final_change": _numbers(over_seeds(result.final - first.final)),
                "speed_change": _numbers(over_seeds(result.speed - first.speed)),
            }
    return plain


def _numbers(found: Change) -> list[float]:
    return [found.value, found.low, found.high]


def plot_learning(curves: Mapping[str, Curves]) -> bytes:
    """Draw each set's curves: smoothed means with bands of the seeds' 95% interval, raw in gray."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    grid = figure.subplots(1, len(curves))
    for axes, (name, arms) in zip(np.atleast_1d(grid), curves.items(), strict=True):
        for arm in ARMS:
            result = arm_results(arms)[arm]
            steps = result.steps
            axes.plot(steps, 100 * result.accuracies.mean(axis=0), color="#cccccc", lw=1)
            every = 100 * smoothed(result.accuracies)
            mean, half = every.mean(axis=0), _half_width(every)
            axes.fill_between(steps, mean - half, mean + half, color=_COLORS[arm], alpha=0.18)
            axes.plot(steps, mean, color=_COLORS[arm], lw=2, label=arm)
        axes.axhline(100 * TARGET, color="gray", ls=":", lw=1)
        axes.set_title(f"{name}, {len(result.final)} seeds")
        axes.set_xlabel("step")
        axes.set_ylabel("accuracy on the test images, percent")
        axes.set_ylim(None, 101)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    return png(figure)


def _half_width(values: Float64[np.ndarray, "S L"]) -> Float64[np.ndarray, " L"]:
    num_seeds = len(values)
    return stats.t.ppf(0.975, num_seeds - 1) * stats.sem(values, axis=0)


def plot_samples(name: str) -> bytes:
    """Draw ten test images of each class."""
    chosen = SETS[name]
    images, labels = make_images(name, "test", 0)
    figure = Figure(figsize=(12, 1.5 * chosen.num_classes), layout="constrained")
    grid = figure.subplots(chosen.num_classes, _SAMPLES)
    for label, row in enumerate(grid):
        for axes, image in zip(row, images[labels == label], strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
        code = "".join(map(str, chosen.codes[label].astype(int)))
        title = f"{label + 1}: {chosen.class_names[label]}, code {code}"
        # Out of the layout: the first column would be as wide as the words.
        row[0].set_title(title, loc="left", fontsize=10).set_in_layout(False)
    return png(figure)
