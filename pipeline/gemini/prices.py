"""Dollars and tokens: what a call costs by the price table, and what one is planned with. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.task import Settings, Task
from pipeline.task.task import CHARS_PER_TOKEN

if TYPE_CHECKING:
    from pipeline.gemini.models import Model

# Which tier's price a call has, by the tier that really served it. Provisioned throughput is paid in advance; it is
# priced as standard, so that a run's cost is never understated.
_TIER_OF_TRAFFIC = {
    "ON_DEMAND": "standard",
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "PROVISIONED_THROUGHPUT": "standard",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Period:
    """A price from a day on (UTC), in USD per million tokens, with where and when it was read."""

    begins: datetime.date
    input_usd: float
    output_usd: float
    recorded: str = ""
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
    """A model's prices over time and by service tier.

    Attributes:
        periods: in the order in which they begin.
        multipliers: price of a tier by the standard price; a tier that is not there has the standard price.
    """

    periods: tuple[Period, ...]
    multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def at(self, moment: datetime.datetime) -> Period:
        """The price that holds at a moment; the first one before all begin."""
        if len(self.periods) == 1:
            return self.periods[0]
        day = moment.astimezone(datetime.UTC).date()
        return next((each for each in reversed(self.periods) if each.begins <= day), self.periods[0])

    def cost(
        self,
        prompt_tokens: int,
        output_tokens: int,
        thoughts_tokens: int,
        *,
        at: datetime.datetime,
        tier: str = "standard",
        traffic_type: str | None = None,
    ) -> float:
        """Dollars of a call; thinking costs as output.

        Args:
            prompt_tokens: input.
            output_tokens: output without thinking.
            thoughts_tokens: thinking.
            at: when the call was answered.
            tier: the tier that was asked for.
            traffic_type: the tier that really served it, as the response says; wins over `tier`.
        """
        price = self.at(at)
        dollars = prompt_tokens * price.input_usd + (output_tokens + thoughts_tokens) * price.output_usd
        return dollars * 1e-6 * self.multipliers.get(_TIER_OF_TRAFFIC.get(traffic_type or "", tier), 1.0)


def parse_prices(text: str) -> Prices:
    """`--price_usd_per_mtok IN,OUT`: USD per million input and output tokens, of whatever tier serves.

    Raises:
        ConfigError: not two numbers that are not negative.
    """
    try:
        input_usd, output_usd = (float(part) for part in text.split(","))
        if not (0 <= input_usd < 1e6 and 0 <= output_usd < 1e6):
            raise ValueError(text)
    except ValueError:
        raise ConfigError(
            f"--price_usd_per_mtok={text}: expected IN,OUT in dollars per million tokens, such as 0.30,2.50"
        ) from None
    return Prices((Period(datetime.date.min, input_usd, output_usd, source="--price_usd_per_mtok"),))


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens that one call is planned with.

    Attributes:
        prompt_tokens: input: text by its length, images exactly.
        output_tokens: output without thinking: a guess by the kinds of the questions, or what the task says.
        thoughts_tokens: thinking: a guess by the level, or the budget.
        most_output_tokens: output and thinking can never be more than this.
    """

    prompt_tokens: int
    output_tokens: int
    thoughts_tokens: int
    most_output_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens + self.thoughts_tokens

    def cost(self, prices: Prices | None, *, at: datetime.datetime, tier: str = "standard") -> float | None:
        """Planned dollars of the call, or None when the price is not known."""
        if prices is None:
            return None
        return prices.cost(self.prompt_tokens, self.output_tokens, self.thoughts_tokens, at=at, tier=tier)


def estimate(
    task: Task,
    settings: Settings,
    model: Model,
    *,
    prompt_chars: int | None = None,
    images: int = 1,
    views: float = 1.0,
) -> Estimate:
    """The tokens of one call.

    Args:
        task: what is asked.
        settings: how.
        model: the model, from `models.find`.
        prompt_chars: length of the prompt with the row's values in it; None is the template's own length.
        images: rows in the call.
        views: images of a row; more than 1 where a row is an asset.
    """
    chars = len(task.prompt) if prompt_chars is None else prompt_chars
    chars += len(task.system_instruction)
    chars += sum(len(task.prompt) + len(task.example_answer(each)) for each in task.examples)
    if task.response_schema and settings.response_schema is not False:
        chars += len(json.dumps(task.response_schema))  # docs/facts.md: the schema counts as input
    if images > 1:
        chars += 300 + 12 * images  # what is said of packing, and the images' names
    pictures = round((images * views + len(task.examples)) * model.tokens_of_image(settings.media_resolution))
    if settings.thinking_budget is not None:
        thoughts = settings.thinking_budget if settings.thinking_budget >= 0 else 500  # dynamic: a guess
    else:
        thoughts = model.planned_thoughts.get(settings.thinking_level or "", 0)
    most = settings.max_output_tokens * images
    output = min(task.planned_answer_tokens() * images, most)
    return Estimate(chars // CHARS_PER_TOKEN + pictures, output, min(thoughts, most - output), most)
