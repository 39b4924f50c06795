"""Textbook formulas in plain arithmetic, for figures that the package has from libraries."""

from __future__ import annotations

import math

Z = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    p, n = count / of, of
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
