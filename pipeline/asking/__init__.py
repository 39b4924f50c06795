"""From observations to answers and failures, by way of the engine: a `Question` for the run, an `Ask` for each call.

Pure but for the clock, a field of `Question`: the engine sends what `Ask.request` builds and hands back what came.
"""

from pipeline.asking.ask import Ask, shares
from pipeline.asking.picture import ImageError, Picture, Problem
from pipeline.asking.question import Question, utc_now

__all__ = ["Ask", "ImageError", "Picture", "Problem", "Question", "shares", "utc_now"]
