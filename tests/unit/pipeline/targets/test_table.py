"""The table of targets: what it refuses, and what its entries mean."""

import math

import numpy as np
import pytest

from pipeline.targets.rows import check_alpha, neighbor_table
from schemas.errors import TargetError
from schemas.targets import DenseTargets, TargetTable


def table_of(index: list[list[int]], weight: list[list[float]], base: list[float]):
    """Make a table from lists."""
    return TargetTable(
        np.array(index, np.int64), np.array(weight, np.float32), np.array(base, np.float32)
    )


def literal_dense(table: TargetTable) -> list[list[float]]:
    """Return target[y, j] = base[y] + sum of weight[y, s] over s with index[y, s] = j."""
    num_classes = len(table.index)
    return [
        [
            float(table.base[y])
            + sum(
                float(table.weight[y, s])
                for s in range(table.index.shape[1])
                if table.index[y, s] == j
            )
            for j in range(num_classes)
        ]
        for y in range(num_classes)
    ]


# Four classes; the rows have three, two, one and no neighbors, and different bases.
MIXED = (
    [[0, 1, 2, 3], [1, 3, 0, 1], [2, 0, 2, 2], [3, 3, 3, 3]],
    [[0.4, 0.3, 0.2, 0.1], [0.4, 0.2, 0.2, 0.0], [0.5, 0.1, 0.0, 0.0], [0.6, 0.0, 0.0, 0.0]],
    [0.0, 0.05, 0.1, 0.1],
)


def test_dense_is_base_plus_the_listed_weights() -> None:
    """Every other test compares dense(), so it has to be the formula and nothing else."""
    table = table_of(*MIXED)
    expected = [
        [0.4, 0.3, 0.2, 0.1],
        [0.25, 0.45, 0.05, 0.25],
        [0.2, 0.1, 0.6, 0.1],
        [0.1, 0.1, 0.1, 0.7],
    ]
    np.testing.assert_allclose(table.dense(), expected, atol=1e-7)
    np.testing.assert_allclose(table.dense(), literal_dense(table), atol=1e-12)
    assert table.num_classes == 4


def test_dense_adds_weights_listed_for_the_same_label() -> None:
    """An empty place points back at y with weight 0; overwriting instead would erase y."""
    table = table_of([[0, 0], [1, 1]], [[1.0, 0.0], [1.0, 0.0]], [0.0, 0.0])
    np.testing.assert_array_equal(table.dense(), np.eye(2))


def test_negative_entropy_equals_the_sum_over_the_dense_row() -> None:
    """The KL of every item contains it; base entries and empty places must count right."""
    table = table_of(*MIXED)
    expected = [sum(t * math.log(t) for t in row if t > 0) for row in literal_dense(table)]
    np.testing.assert_allclose(table.negative_entropy(), expected, atol=1e-6)


def test_negative_entropy_of_certainty_is_zero() -> None:
    """0 log 0 = 0: one-hot rows must not turn the loss into NaN."""
    table = table_of([[0], [1]], [[1.0], [1.0]], [0.0, 0.0])
    np.testing.assert_array_equal(table.negative_entropy(), [0.0, 0.0])


def test_mass_off_the_true_class_counts_base_and_neighbors() -> None:
    """The curriculum starts from it; a forgotten base would harden uniform targets wrongly."""
    table = table_of(*MIXED)
    np.testing.assert_allclose(table.off_true(), [0.6, 0.55, 0.4, 0.3], atol=1e-6)


def test_mass_off_the_true_class_is_a_share_whatever_the_rounding() -> None:
    """Float32 weights may sum to a little more than 1; schedules divide by what is left."""
    assert table_of([[0], [1]], [[1.000001], [1.0]], [0.0, 0.0]).off_true().tolist() == [0, 0]
    matrix = np.array([[1.000001, 0.0], [0.0, 1.0]], np.float32)
    assert DenseTargets(matrix).off_true().tolist() == [0, 0]


def test_an_entry_below_zero_by_rounding_is_accepted() -> None:
    """A base and a weight that cancel leave 1e-9 on either side of 0."""
    table = table_of([[0, 1], [1, 0]], [[1.0, -1e-7], [1.0, 0.0]], [0.0, 0.0])
    assert table.num_classes == 2


@pytest.mark.parametrize(
    ("weight", "base"),
    [
        ([[0.9], [1.0]], [0.0, 0.0]),
        ([[1.001], [1.0]], [0.0, 0.0]),
        ([[1.00002], [1.0]], [0.0, 0.0]),
        ([[1.0], [1.0]], [0.01, 0.0]),
        ([[1.2], [1.0]], [-0.1, 0.0]),
        ([[math.nan], [1.0]], [0.0, 0.0]),
        ([[1.0], [1.0]], [math.nan, 0.0]),
        ([[math.inf], [1.0]], [0.0, 0.0]),
    ],
)
def test_rows_that_are_no_distribution_are_refused(
    weight: list[list[float]], base: list[float]
) -> None:
    """KL to something that is not a distribution trains without complaint, to nonsense."""
    with pytest.raises(TargetError) as caught:
        table_of([[0], [1]], weight, base)
    assert caught.value.where == "TargetTable"
    assert caught.value.fix


def test_a_negative_entry_is_refused_although_the_row_sums_to_one() -> None:
    """A sum alone does not make a distribution, and log of a negative entry is NaN."""
    with pytest.raises(TargetError, match="smallest"):
        table_of([[0, 1], [1, 0]], [[1.2, -0.2], [1.0, 0.0]], [0.0, 0.0])


def test_a_weight_below_zero_is_fine_where_the_base_covers_it() -> None:
    """Uniform smoothing with a large alpha writes the true class as base minus something."""
    table = table_of([[0], [1]], [[-0.8], [-0.8]], [0.9, 0.9])
    np.testing.assert_allclose(table.dense(), [[0.1, 0.9], [0.9, 0.1]], atol=1e-6)


@pytest.mark.parametrize(
    ("weight_shape", "base_shape"),
    [((3, 1), (3,)), ((2, 1), (3,)), ((3, 2), (2,)), ((3, 2), (3, 1))],
)
def test_shapes_that_do_not_fit_are_refused(
    weight_shape: tuple[int, ...], base_shape: tuple[int, ...]
) -> None:
    """NumPy would broadcast some of them, and every row would be wrong."""
    index = np.zeros((3, 2), np.int64)
    with pytest.raises(TargetError, match="do not fit") as caught:
        TargetTable(index, np.ones(weight_shape, np.float32), np.zeros(base_shape, np.float32))
    assert caught.value.where == "TargetTable"
    assert "[C, S]" in caught.value.fix


def test_a_neighbor_table_points_empty_places_at_the_true_class() -> None:
    """Index -1 would silently mean the last class."""
    neighbors = np.array([[1, 2], [0, -1], [-1, -1]])
    weight = np.array([[0.2, 0.1], [0.3, 0.0], [0.0, 0.0]])
    table = neighbor_table(np.array([0.7, 0.7, 1.0]), neighbors, weight)
    assert table.index.tolist() == [[0, 1, 2], [1, 0, 1], [2, 2, 2]]
    np.testing.assert_allclose(
        table.dense(), [[0.7, 0.2, 0.1], [0.3, 0.7, 0], [0, 0, 1]], atol=1e-7
    )


def test_a_neighbor_table_has_the_dtypes_of_the_contract() -> None:
    """The loss gathers with int64 and multiplies in float32; others fail or double memory."""
    table = neighbor_table(np.ones(3), np.full((3, 2), -1), np.zeros((3, 2)))
    assert (table.index.dtype, table.weight.dtype, table.base.dtype) == (
        np.int64,
        np.float32,
        np.float32,
    )


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.999])
def test_alpha_from_zero_up_to_one_is_accepted(alpha: float) -> None:
    """0 is the control: the same code without smoothing."""
    check_alpha(alpha)


@pytest.mark.parametrize("alpha", [-0.01, 1.0, 1.5, math.nan, math.inf])
def test_alpha_outside_the_range_is_refused(alpha: float) -> None:
    """At 1 the true class has no mass left, and a typo such as 10 for 10% must not train."""
    with pytest.raises(TargetError, match=str(alpha)) as caught:
        check_alpha(alpha)
    assert caught.value.where == "--alpha"
    assert caught.value.fix
