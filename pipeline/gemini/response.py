"""Reads GenerateContent responses: text, why the model stopped, tokens. Pure; takes any response, however odd."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

# Numbers by name from google.cloud.aiplatform_v1; a test compares them with the installed client. Vertex AI adds
# reasons (IMAGE_SAFETY, LANGUAGE, ... over REST): a number that is not here is kept as FINISH_REASON_<number>.
FINISH_REASONS = {
    0: "FINISH_REASON_UNSPECIFIED",
    1: "STOP",
    2: "MAX_TOKENS",
    3: "SAFETY",
    4: "RECITATION",
    5: "OTHER",
    6: "BLOCKLIST",
    7: "PROHIBITED_CONTENT",
    8: "SPII",
    9: "MALFORMED_FUNCTION_CALL",
    10: "MODEL_ARMOR",
}
BLOCK_REASONS = {
    0: "BLOCKED_REASON_UNSPECIFIED",
    1: "SAFETY",
    2: "OTHER",
    3: "BLOCKLIST",
    4: "PROHIBITED_CONTENT",
    5: "MODEL_ARMOR",
    6: "JAILBREAK",
}
TRAFFIC_TYPES = {
    1: "ON_DEMAND",
    2: "PROVISIONED_THROUGHPUT",
    3: "ON_DEMAND_PRIORITY",
    4: "ON_DEMAND_FLEX",
}
_UNSPECIFIED, _STOP, _MAX_TOKENS = 0, 1, 2
_DETAIL_CHARS = 500


class Outcome(enum.StrEnum):
    """What a response amounts to."""

    ANSWERED = "answered"
    CUT_OFF = "cut_off"  # MAX_TOKENS: more with a larger limit
    BLOCKED = "blocked"  # final for this image: docs/facts.md, finish and block reasons
    EMPTY = "empty"  # no candidate, or no text, and no reason given


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """A response, read.

    Attributes:
        text: all text parts of the first candidate in one, thoughts left out.
        finish_reason: by name; of the prompt when it was blocked: `BLOCKED_SAFETY`.
        detail: what the service says beside.
        total_tokens: as the service counts; at least the sum of the others.
    """

    outcome: Outcome
    text: str
    finish_reason: str
    detail: str
    prompt_tokens: int
    output_tokens: int
    thoughts_tokens: int
    total_tokens: int
    traffic_type: str | None
    model_version: str


def read(response: Any) -> Reply:
    """Read a GenerateContentResponse (the plain protobuf message)."""
    usage = response.usage_metadata
    prompt, output, thoughts = usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count
    traffic = usage.traffic_type
    text = detail = ""
    candidates = response.candidates
    if candidates:
        candidate = candidates[0]
        parts = candidate.content.parts
        if len(parts) == 1 and not parts[0].thought:
            text = parts[0].text
        else:
            text = "".join([part.text for part in parts if not part.thought])
        number = candidate.finish_reason
        reason = FINISH_REASONS.get(number) or f"FINISH_REASON_{number}"
        if number in (_STOP, _UNSPECIFIED):
            outcome = Outcome.ANSWERED if text and not text.isspace() else Outcome.EMPTY
        else:
            outcome = Outcome.CUT_OFF if number == _MAX_TOKENS else Outcome.BLOCKED
            detail = candidate.finish_message[:_DETAIL_CHARS]
    else:
        outcome, reason = Outcome.EMPTY, "NO_CANDIDATES"
    if outcome is not Outcome.ANSWERED and response.HasField("prompt_feedback"):
        feedback = response.prompt_feedback
        if feedback.block_reason or not candidates:
            block = BLOCK_REASONS.get(feedback.block_reason) or f"REASON_{feedback.block_reason}"
            outcome, reason = Outcome.BLOCKED, f"BLOCKED_{block.removeprefix('BLOCKED_REASON_')}"
            detail = feedback.block_reason_message[:_DETAIL_CHARS]
    return Reply(
        outcome,
        text,
        reason,
        detail,
        prompt,
        output,
        thoughts,
        max(usage.total_token_count, prompt + output + thoughts),
        (TRAFFIC_TYPES.get(traffic) or f"TRAFFIC_TYPE_{traffic}") if traffic else None,
        response.model_version,
    )
