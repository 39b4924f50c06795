"""Figures and their 95 % intervals. The formulas are statsmodels', scipy's and scikit-learn's. Pure."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Sequence

from pipeline.errors import ConfigError

CONFIDENCE = 0.95
_RESAMPLES = 10_000
_MOST_FLIPPED = 1000  # rows; more take seconds, and no longer differ from the t-test
_PACKAGES = ("sklearn", "scipy", "statsmodels")


def check_installed() -> None:
    """The statistics packages are an extra: workers do not need them.

    Raises:
        ConfigError: one of them is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        packages = ", ".join(missing)
        raise ConfigError(
            f"evaluation needs {packages}: pip install '.[stats]' in the source of this package, or make venv"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the bounds of its 95 % interval; a bound is None where so few rows give none."""

    value: float
    low: float | None = None
    high: float | None = None


def share(count: int, of: int) -> Interval | None:
    """`count` of `of` rows, with Wilson's interval; None of no rows.

    Wilson's stays within 0 and 1 and does not collapse when all rows are right, as small labelled samples often are.
    """
    if of == 0:
        return None
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, of, alpha=1 - CONFIDENCE, method="wilson")
    return Interval(count / of, max(0.0, float(low)), min(1.0, float(high)))


def f1(true_positives: int, false_positives: int, false_negatives: int) -> Interval | None:
    """F1 of a class; None where it was neither true nor said.

    The interval is Wilson's of tp / (tp + fp + fn), of which F1 is a growing function, carried over:
    F1 = 2 j / (1 + j).
    """
    found = share(true_positives, true_positives + false_positives + false_negatives)
    if found is None or found.low is None or found.high is None:
        return None
    return Interval(*(2 * j / (1 + j) for j in (found.value, found.low, found.high)))


def mean(values: Sequence[float]) -> Interval | None:
    """A mean with Student's interval, without one for a single value; None of no values."""
    if not values:
        return None
    from scipy import stats

    average = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(average)
    spread = float(stats.sem(values))
    if spread == 0:
        return Interval(average, average, average)
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=average, scale=spread)
    return Interval(average, float(low), float(high))


def rows_needed(least: float) -> int:
    """Labelled rows from which on a share can be shown to be at least `least`: all of them right.

    Args:
        least: above 0, below 1.
    """
    low, high = 1, 2
    while not _reaches(high, least):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _reaches(middle, least) else (middle + 1, high)
    return low


def _reaches(rows: int, least: float) -> bool:
    best = share(rows, rows)
    return best is not None and best.low is not None and best.low >= least


@dataclasses.dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class: how often it was true and said, precision, recall and F1; None where nothing was said or true."""

    label: str
    true: int
    said: int
    right: int
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None


def class_figures(label: str, *, true: int, said: int, right: int) -> ClassFigures:
    """The figures of a class by its counts: rows where it was true, where it was said, and both."""
    figure = f1(right, said - right, true - right)
    return ClassFigures(label, true, said, right, share(right, said), share(right, true), figure)


def confusion(true: Sequence[str], said: Sequence[str], labels: Sequence[str], nothing: str) -> list[list[int]]:
    """Counts by true label (rows, in the order of `labels`) and said label (columns: `labels`, then `nothing`)."""
    if not true:
        return []
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(true, said, labels=[*labels, nothing])
    return [[int(cell) for cell in line] for line in counts[: len(labels)]]


@dataclasses.dataclass(frozen=True, slots=True)
class Bin:
    """Rows whose confidence lies in one tenth: how sure the model was on average, and how often it was right."""

    low: float
    high: float
    rows: int
    confidence: float
    right: float


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """Whether a confidence of 0.8 is right 8 times in 10.

    Attributes:
        of: the question that the confidence is of, or `all` for the whole row.
        rows: answered rows with a confidence.
        brier: mean squared difference of confidence and outcome; 0 is perfect, 0.25 is a coin that says 0.5.
        expected_error: the tenths' differences of confidence and share right, weighted by their rows.
    """

    confidence: str
    of: str
    rows: int
    brier: float
    expected_error: float
    bins: tuple[Bin, ...]


def calibration(confidence: str, of: str, sure: Sequence[float], right: Sequence[bool]) -> Calibration | None:
    """Calibration of confidences between 0 and 1; None of no rows."""
    if not sure:
        return None
    from sklearn.metrics import brier_score_loss

    tenths: dict[int, list[int]] = {}
    for place, value in enumerate(sure):
        tenths.setdefault(min(int(value * 10), 9), []).append(place)
    bins = tuple(
        Bin(
            tenth / 10,
            (tenth + 1) / 10,
            len(places),
            math.fsum(sure[place] for place in places) / len(places),
            sum(right[place] for place in places) / len(places),
        )
        for tenth, places in sorted(tenths.items())
    )
    gap = math.fsum(each.rows * abs(each.confidence - each.right) for each in bins) / len(sure)
    brier = float(brier_score_loss([int(each) for each in right], list(sure), labels=[0, 1]))
    return Calibration(confidence, of, len(sure), brier, gap, bins)


@dataclasses.dataclass(frozen=True, slots=True)
class Paired:
    """Two ways of asking, A and B, on the same rows.

    Attributes:
        question: the question, or `all` for rows where every question is right.
        rows: rows that were compared.
        only_a: of these, right by A alone.
        only_b: of these, right by B alone.
        difference: share right of B less that of A.
        p_value: of McNemar's exact test: how likely chance alone makes a difference as large as this.
        p_adjusted: after Holm, since several questions are tested at once.
        better: "a" or "b" where the difference is more than noise (`p_adjusted` below 0.05), else None.
    """

    question: str
    rows: int
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: Interval
    p_value: float
    p_adjusted: float
    better: str | None


def paired(question: str, right_a: Sequence[bool], right_b: Sequence[bool]) -> Paired:
    """McNemar's exact test of two ways of asking, and the difference with its bootstrap interval.

    The interval is that of 10,000 resamples of the rows, with a fixed seed; the rows fall into four cells, so a
    resample is a draw from the multinomial distribution of their counts. What is better is decided by the test alone.

    Args:
        question: its name.
        right_a: for each row whether A is right, at least one row.
        right_b: likewise.
    """
    import numpy as np
    from statsmodels.stats.contingency_tables import mcnemar

    cells = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for each in zip(right_a, right_b, strict=True):
        cells[each] += 1
    rows, only_a, only_b = len(right_a), cells[True, False], cells[False, True]
    table = [[cells[True, True], only_a], [only_b, cells[False, False]]]
    p_value = min(1.0, float(mcnemar(table, exact=True).pvalue))
    difference = Interval((only_b - only_a) / rows)
    if only_a or only_b:  # without a row that differs every resample is the same, and would say nothing
        drawn = np.random.default_rng(0).multinomial(rows, np.ravel(table) / rows, _RESAMPLES)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile((drawn[:, 2] - drawn[:, 1]) / rows, (tail, 1 - tail))
        difference = Interval(difference.value, float(low), float(high))
    return Paired(
        question=question,
        rows=rows,
        both=cells[True, True],
        only_a=only_a,
        only_b=only_b,
        neither=cells[False, False],
        difference=difference,
        p_value=p_value,
        p_adjusted=p_value,
        better=None,
    )


def sign_flips(differences: Sequence[float]) -> float:
    """The p-value of the paired permutation test that the differences are 0 on average; 1 where all are 0.

    If neither way were better, each difference could as well have the other sign: the p-value is the share of all such
    flips (or of 9,999 of them, with a fixed seed) whose mean is as far from 0. It is of the mean, as is the difference
    that is shown, so that both point the same way. Of very many rows it is the paired t-test's, to which it comes.
    """
    import numpy as np
    from scipy import stats

    apart = [each for each in differences if each]  # a flip of 0 is 0
    if len(apart) < 2:
        return 1.0  # either sign is as far from 0
    if len(apart) > _MOST_FLIPPED:
        return float(stats.ttest_1samp(differences, 0.0).pvalue)
    test = stats.permutation_test((apart,), np.mean, permutation_type="samples", vectorized=True, batch=1000, rng=0)
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's adjustment for their number."""
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, alpha=1 - CONFIDENCE, method="holm")[1]]
