"""What may go wrong at Vertex AI, as fronts that pass over the stand-in one after the other, by the dice. For `soak`."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.local.vertex import VertexStandIn

CALM: Mapping[str, Any] = {
    "latency_secs": 0.2,
    "latency_p99_secs": None,
    "requests_per_sec": None,
    "retry_info_secs": None,
    "rates": {},
}
ASKED_AGAIN = ("malformed_json", "truncated_json", "wrong_label", "empty", "no_text", "long:1500", "finish:MAX_TOKENS")
"""Answers that are paid for and asked again."""
_ERRORS = ("UNAVAILABLE", "INTERNAL", "ABORTED", "UNKNOWN", "CANCELLED", "DATA_LOSS")
_FORGIVEN = ("fenced_json", "prose", "split_parts", "thought_parts", "no_usage")
_FINAL = ("blocked", "blocked:JAILBREAK", "finish:SAFETY", "finish:RECITATION", "finish:99")
_BAD_IMAGES = ("IMAGE_NOT_FOUND", "IMAGE_DENIED", "IMAGE_INVALID")


@dataclasses.dataclass(frozen=True)
class Front:
    """The weather for a while: settings of the stand-in; or every call refused; or all connections closed at once."""

    name: str
    secs: float
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    refused: str = ""
    drops: bool = False

    def __str__(self) -> str:
        return f"{self.secs:5.1f} s  {self.name} {self.refused} {dict(self.settings) or ''}"

    def passes_over(self, vertex: VertexStandIn) -> None:
        """Makes the stand-in behave like that, until the next one."""
        vertex.configure(**{**CALM, **self.settings})
        vertex.pause(self.refused or "UNAVAILABLE", self.secs if self.refused else 0.0)
        if self.drops:
            vertex.drop_connections()


def clear_sky() -> Front:
    """Nothing goes wrong."""
    return Front("calm", 0.0)


def _some_of(dice: random.Random, kinds: Sequence[str], most: float) -> dict[str, Any]:
    """Some of the kinds, each for a share of the calls, all together for `most` of them at most."""
    chosen = dice.sample(kinds, dice.randint(1, len(kinds)))
    return {"rates": {kind: dice.uniform(0.1, 1.0) * most / len(chosen) for kind in chosen}}


def _quota(dice: random.Random) -> dict[str, Any]:
    return {
        "requests_per_sec": dice.uniform(20.0, 200.0),
        "retry_info_secs": dice.choice((None, dice.uniform(0.1, 2.0))),
    }


_EVERYTHING = (*_ERRORS, *ASKED_AGAIN, *_FORGIVEN, *_FINAL, *_BAD_IMAGES, "hang", "reset")
_SETTINGS: Mapping[str, Callable[[random.Random], dict[str, Any]]] = {
    "calm": lambda dice: {},
    "a small quota": _quota,
    "errors": lambda dice: _some_of(dice, _ERRORS, 0.5),
    "resets": lambda dice: {"rates": {"reset": dice.uniform(0.001, 0.01)}},
    "hangs": lambda dice: {"rates": {"hang": dice.uniform(0.01, 0.1)}},
    "answers to mend": lambda dice: _some_of(dice, ASKED_AGAIN, 0.4),
    "odd answers": lambda dice: _some_of(dice, (*_FORGIVEN, *_FINAL), 0.5),
    "bad images": lambda dice: _some_of(dice, _BAD_IMAGES, 0.1),
    "a slow tail": lambda dice: {"latency_p99_secs": dice.uniform(2.0, 20.0)},
    "all at once": lambda dice: (
        _some_of(dice, _EVERYTHING, 0.3) | _quota(dice) | {"latency_p99_secs": dice.uniform(1.0, 5.0)}
    ),
}
_REFUSED = {"all rejected": ("RESOURCE_EXHAUSTED",), "all out": ("UNAVAILABLE", "INTERNAL", "UNKNOWN")}
_DROPPED = "connections dropped"


def front(dice: random.Random, longest_secs: float) -> Front:
    """The next front, by the dice."""
    secs = dice.uniform(0.1, 1.0) * longest_secs
    name = dice.choice((*_SETTINGS, *_REFUSED, _DROPPED))
    if name in _REFUSED:
        told = dice.choice((None, dice.uniform(0.1, 2.0)))
        return Front(name, secs, {"retry_info_secs": told}, refused=dice.choice(_REFUSED[name]))
    if name == _DROPPED:
        return Front(name, secs, drops=True)
    return Front(name, secs, _SETTINGS[name](dice))
