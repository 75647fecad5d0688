"""Laws of label codes, for any signs and any tree."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codes import ancestor_bits, distinct_signs
from schemas.codes import LabelCodes

LAWS = settings(derandomize=True, deadline=None, max_examples=200)
# Few distinct magnitudes and many equal rows: ties and collisions are the rule here.
ENTRIES = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 3.0])
VALUES = st.integers(1, 6).flatmap(
    lambda num_bits: st.lists(
        st.lists(ENTRIES, min_size=num_bits, max_size=num_bits),
        min_size=1,
        max_size=12,
    )
)
PATHS = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" > ".join),
    min_size=1,
    max_size=12,
    unique=True,
)


def slowly_distinct(values: list[list[float]]) -> list[tuple[bool, ...]]:
    """Go through all sets of bits, by size and then by how uncertain they are, one by one."""
    signs = [tuple(value > 0 for value in row) for row in values]
    found: list[tuple[bool, ...]] = []
    for label, row in enumerate(values):
        if signs[label] not in signs[:label]:
            found.append(signs[label])
            continue
        alike = [each for each, own in zip(values, signs, strict=True) if own == signs[label]]
        certainty = [sum(abs(each[bit]) for each in alike) for bit in range(len(row))]
        order = sorted(range(len(row)), key=lambda bit: (certainty[bit], bit))
        taken = {*found, *signs}
        best = signs[label]
        for size in range(1, len(row) + 1):
            for chosen in itertools.combinations(range(len(row)), size):
                flipped = {order[place] for place in chosen}
                code = tuple(is_set ^ (bit in flipped) for bit, is_set in enumerate(signs[label]))
                if code not in taken:
                    best = code
                    break
            else:
                continue
            break
        found.append(best)
    return found


@given(VALUES)
@LAWS
def test_equal_signs_are_told_apart_as_a_slow_search_does(values: list[list[float]]) -> None:
    """And stay equal only where there are more labels than codes."""
    bits = distinct_signs(np.array(values))
    assert [tuple(row) for row in bits.tolist()] == slowly_distinct(values)
    num_labels, num_bits = bits.shape
    assert len(np.unique(bits, axis=0)) == min(num_labels, 2**num_bits)
    if num_labels <= 2**num_bits:
        assert LabelCodes(bits).num_collisions == 0


@given(PATHS)
@LAWS
def test_a_bit_of_the_tree_is_set_below_its_category(paths: list[str]) -> None:
    """By the definition: the path is the category's, or begins with it; and no column twice."""
    features, bits = ancestor_bits(paths)
    for category, column in zip(features, bits.T, strict=True):
        assert column.tolist() == [f"{path} > ".startswith(f"{category} > ") for path in paths]
        assert 1 < column.sum() < len(paths)
    assert len({column.tobytes() for column in bits.T}) == len(features)
    shared = {
        tuple(f"{path} > ".startswith(f"{each} > ") for path in paths)
        for path in paths
        for each in itertools.accumulate(path.split(" > "), "{} > {}".format)
    }
    assert len(features) == sum(1 < sum(column) < len(paths) for column in shared)


@given(VALUES, st.integers(0, 2**32 - 1))
@LAWS
def test_shuffling_changes_only_whose_the_codes_are(values: list[list[float]], seed: int) -> None:
    """The control has the same codes, as many collisions, and the same bits set."""
    codes = LabelCodes(np.array(values) > 0)
    shuffled = codes.shuffled(seed)
    assert sorted(shuffled.bits.tolist()) == sorted(codes.bits.tolist())
    if codes.num_labels > 1 and not codes.num_collisions:
        assert (shuffled.bits != codes.bits).any(axis=1).all()
    assert shuffled.num_collisions == codes.num_collisions
    np.testing.assert_array_equal(codes.shuffled(seed).bits, shuffled.bits)
