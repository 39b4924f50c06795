"""Each figure against the textbook's formula, worked out here by plain loops."""

import math
import operator
import random
from fractions import Fraction
from itertools import product

import pytest
from textbook import Z, wilson

from pipeline.evaluation import figures
from pipeline.evaluation.figures import Interval


def near(found: Interval, value, low, high):
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=1e-12)


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 20), (9, 10), (37, 40), (300, 300), (123, 4567)])
def test_a_share_has_wilsons_interval(count, of):
    near(figures.share(count, of), count / of, *wilson(count, of))


def test_a_share_of_nothing_is_no_share():
    assert figures.share(0, 0) is None
    assert figures.f1(0, 0, 0) is None
    assert figures.mean([]) is None
    assert figures.calibration("confidence", "all", [], []) is None


@pytest.mark.parametrize(("tp", "fp", "fn"), [(8, 1, 2), (0, 3, 0), (50, 0, 0), (10, 40, 5)])
def test_f1_and_its_interval_come_from_the_share_of_hits_among_all_that_was_true_or_said(tp, fp, fn):
    low, high = wilson(tp, tp + fp + fn)
    near(figures.f1(tp, fp, fn), 2 * tp / (2 * tp + fp + fn), 2 * low / (1 + low), 2 * high / (1 + high))


def test_a_mean_has_students_interval():
    # n = 5, t(0.975, 4 degrees of freedom) = 2.7764451051977987
    values = [1.0, 2.0, 2.5, 4.0, 6.0]
    mean = sum(values) / 5
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / 4 / 5)
    near(figures.mean(values), mean, mean - 2.7764451051977987 * error, mean + 2.7764451051977987 * error)


def test_one_class_alone_has_a_confusion_matrix_too():
    assert figures.confusion(["a", "a"], ["a", "a"], ["a"], "-") == [[2, 0]]
    assert figures.confusion(["a"], ["-"], ["a"], "-") == [[0, 1]]
    nothing = figures.class_figures("b", true=0, said=0, right=0)
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)
    never_true = figures.class_figures("b", true=0, said=4, right=0)
    assert (never_true.precision.value, never_true.recall, never_true.f1.value) == (0, None, 0)


def test_a_single_value_has_no_interval_and_equal_values_have_a_narrow_one():
    assert figures.mean([3.0]) == Interval(3.0)
    assert figures.mean([2.0, 2.0, 2.0]) == Interval(2.0, 2.0, 2.0)


@pytest.mark.parametrize("least", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_rows_needed_are_the_fewest_that_can_reach_a_bound(least):
    rows = figures.rows_needed(least)
    assert wilson(rows, rows)[0] >= least > wilson(rows - 1, rows - 1)[0]


def test_the_confusion_matrix_counts_every_pair_and_what_was_not_answered():
    rng = random.Random(1)
    labels = ["a", "b", "c"]
    true = [rng.choice(labels) for _ in range(200)]
    said = [rng.choice([*labels, "-"]) for _ in range(200)]
    counted = [[0] * 4 for _ in labels]
    for a, b in zip(true, said, strict=True):
        counted[labels.index(a)][[*labels, "-"].index(b)] += 1
    assert figures.confusion(true, said, labels, "-") == counted


def exact_mcnemar(only_a, only_b):
    """Twice the smaller tail of a fair coin."""
    apart = only_a + only_b
    tail = sum(Fraction(math.comb(apart, k), 2**apart) for k in range(min(only_a, only_b) + 1))
    return float(min(Fraction(1), 2 * tail))


@pytest.mark.parametrize(
    ("both", "only_a", "only_b", "neither"), [(80, 2, 14, 4), (90, 5, 5, 0), (10, 0, 6, 0), (3, 1, 0, 9)]
)
def test_mcnemars_test_is_exact(both, only_a, only_b, neither):
    test = figures.paired("q", *columns(both, only_a, only_b, neither))
    rows = both + only_a + only_b + neither
    assert (test.both, test.only_a, test.only_b, test.neither, test.rows) == (both, only_a, only_b, neither, rows)
    assert test.difference.value == pytest.approx((only_b - only_a) / rows)
    assert test.p_value == pytest.approx(exact_mcnemar(only_a, only_b))


def columns(both, only_a, only_b, neither):
    right_a = [True] * (both + only_a) + [False] * (only_b + neither)
    right_b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return right_a, right_b


def test_the_difference_has_the_interval_that_resampled_rows_have():
    right_a, right_b = columns(600, 100, 160, 140)
    found = figures.paired("q", right_a, right_b).difference
    # The normal approximation, good for so many rows.
    error = math.sqrt((100 + 160) / 1000 - (60 / 1000) ** 2) / math.sqrt(1000)
    assert (found.low, found.high) == pytest.approx((0.06 - Z * error, 0.06 + Z * error), abs=0.003)
    assert figures.paired("q", right_a, right_b).difference == found
    few = figures.paired("q", *columns(80, 0, 12, 8)).difference
    assert 0 < few.low < few.value < few.high


def test_ways_that_never_differ_are_not_told_apart():
    test = figures.paired("q", [True, False], [True, False])
    assert (test.p_value, test.difference) == (1.0, Interval(0.0))


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests_the_next_by_one_less():
    assert figures.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert figures.holm([]) == []


def flips(differences):
    """The share of all ways to flip signs whose sum is as far from 0, counted one by one."""
    sums = [abs(sum(map(operator.mul, differences, signs))) for signs in product((1, -1), repeat=len(differences))]
    return sum(each >= abs(sum(differences)) - 1e-9 for each in sums) / len(sums)


@pytest.mark.parametrize(
    "differences",
    [
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        [1.0, -1.0, 2.0, 0.0, 0.0, 3.0, 3.0],
        [0.5],
        [-0.1] * 8,
        [0.3, -2.0, 0.1, 0.1, 0.4],
    ],
)
def test_errors_are_compared_by_all_flips_of_their_signs(differences):
    assert figures.sign_flips(differences) == pytest.approx(flips(differences))


def test_many_errors_are_compared_by_some_flips_and_very_many_by_students_test():
    assert figures.sign_flips([0.0, 0.0]) == 1.0
    rng = random.Random(2)
    some = [rng.gauss(0.15, 1) for _ in range(200)]
    many = [rng.gauss(0.15, 1) for _ in range(2000)]
    for values, within in ((some, 0.01), (many, 1e-3)):
        mean = sum(values) / len(values)
        error = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
        normal = math.erfc(abs(mean) / error / math.sqrt(2))  # Student's distribution, of so many, is the normal one
        assert figures.sign_flips(values) == pytest.approx(normal, abs=within)
        assert figures.sign_flips(values) == figures.sign_flips(values)


def test_calibration_compares_confidence_with_the_share_right_in_tenths():
    rng = random.Random(3)
    sure = [rng.random() for _ in range(300)] + [1.0, 0.0]
    right = [rng.random() < value for value in sure]
    found = figures.calibration("confidence", "all", sure, right)
    assert found.brier == pytest.approx(sum((s - r) ** 2 for s, r in zip(sure, right, strict=True)) / len(sure))
    gap = 0.0
    for tenth in range(10):
        upper = 1.1 if tenth == 9 else (tenth + 1) / 10
        mine = [(s, r) for s, r in zip(sure, right, strict=True) if tenth / 10 <= s < upper]
        made = next(each for each in found.bins if each.low == tenth / 10)
        assert made.rows == len(mine)
        assert made.right == pytest.approx(sum(r for _, r in mine) / len(mine))
        gap += abs(sum(s for s, _ in mine) - sum(r for _, r in mine))
    assert found.expected_error == pytest.approx(gap / len(sure))
