"""The tables of docs/costs.md, from the price table and the estimate that `plan` uses.

`PYTHONPATH=. python tests/pipeline/docs/priced.py` prints them.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence

from pipeline.gemini import models
from pipeline.gemini.prices import Estimate, Prices, estimate
from pipeline.task import Task

DAY = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)  # prices change: the page says of which day its figures are
ROWS = 1000


def asked(
    task: str = "road_signs",
    model: str | None = None,
    *,
    resolution: str | None = None,
    thinking: str | None = None,
    images: int = 1,
) -> tuple[Estimate, Prices | None]:
    """What one call is planned with, and the model's prices."""
    loaded = Task.load(task)
    settings = models.settings_for(
        loaded, model, media_resolution=resolution, thinking_level=thinking, images_per_request=images
    )
    found = models.find(settings.model)
    return estimate(loaded, settings, found, images=images), found.prices


def usd(call: tuple[Estimate, Prices | None], *, tier: str = "standard", images: int = 1, rows: int = ROWS) -> float:
    """Dollars of so many rows, as planned."""
    cost = call[0].cost(call[1], at=DAY, tier=tier)
    assert cost is not None, "the page shows models whose price is known"
    return rows * cost / images


def dollars(call: tuple[Estimate, Prices | None], *, tier: str = "standard", images: int = 1, rows: int = ROWS) -> str:
    """The same in words."""
    return _shown(usd(call, tier=tier, images=images, rows=rows))


def _shown(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.1 else f"${amount:.4f}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def tables() -> Iterator[str]:
    """One after the other, as they stand on the page."""
    call, prices = asked()
    assert prices is not None
    price = prices.at(DAY)
    image = models.find(models.default_model()).tokens_of_image("medium")
    parts = (
        ("the image at `medium`", image, price.input_usd),
        ("prompt, system instruction and answer schema", call.prompt_tokens - image, price.input_usd),
        ("the answer", call.output_tokens, price.output_usd),
    )
    yield markdown(
        ("part of a row", "tokens", "USD per million", "1,000 rows"),
        (
            *((what, f"{tokens:,}", f"{each:.2f}", _shown(ROWS * tokens * each / 1e6)) for what, tokens, each in parts),
            ("together", f"{call.total_tokens:,}", "", dollars((call, prices))),
        ),
    )
    yield markdown(
        ("`--media_resolution`", "tokens of the image", "of the row", "1,000 rows"),
        (
            (
                f"`{name}`",
                f"{models.find(models.default_model()).tokens_of_image(name):,}",
                f"{asked(resolution=name)[0].total_tokens:,}",
                dollars(asked(resolution=name)),
            )
            for name in ("low", "medium", "high", "ultra_high")
        ),
    )
    yield markdown(
        ("model", "1,000 rows", "in a batch"),
        (
            (f"`{name}`", dollars(asked(model=name)), dollars(asked(model=name), tier="batch"))
            for name in ("gemini-3.1-flash-lite", "gemini-3.5-flash-lite", "gemini-3.8-flash", "gemini-3.5-flash")
        ),
    )
    yield markdown(
        ("`--thinking_level`", "tokens planned", "1,000 rows"),
        (
            (f"`{level}`", asked(thinking=level)[0].thoughts_tokens, dollars(asked(thinking=level)))
            for level in ("minimal", "low", "medium", "high")
        ),
    )
    yield markdown(
        ("`--images_per_request`", "tokens of a row", "1,000 rows"),
        (
            (
                images,
                f"{asked(images=images)[0].total_tokens / images:,.0f}",
                dollars(asked(images=images), images=images),
            )
            for images in (1, 4, 16)
        ),
    )
    million, poles = asked(), asked("utility_poles")
    yield markdown(
        ("example", "online", "batch or flex"),
        (
            (what, dollars(call, rows=rows), dollars(call, rows=rows, tier="batch"))
            for what, call, rows in (
                ("ten road signs, to see whether it works", million, 10),
                ("1,000 road signs, to measure the accuracy", million, 1000),
                ("a million road signs", million, 1_000_000),
                ("a million road signs at `low`", asked(resolution="low"), 1_000_000),
                ("200,000 utility poles", poles, 200_000),
            )
        ),
    )


if __name__ == "__main__":
    print("\n\n".join(tables()))
