"""What a call means for its rows: it asks, asks again, splits packs, and ends in an outcome for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.asking.picture import Outcome as AnyOutcome
from pipeline.asking.picture import Picture
from pipeline.asking.question import Question
from pipeline.engine.call import Again, CallError, Fault, Landed, Split, Step
from pipeline.gemini import response
from pipeline.gemini.request import image_keys
from pipeline.gemini.response import Outcome, Reply
from pipeline.rows import Answer, Observation, Reason, Usage
from pipeline.task import Invalid, Packed
from pipeline.task.parts import MAX_OUTPUT_TOKENS

_REASONS = {
    Fault.NOT_FOUND: Reason.IMAGE_NOT_FOUND,
    Fault.DENIED: Reason.IMAGE_DENIED,
    Fault.INVALID: Reason.INVALID_REQUEST,
    Fault.UNAVAILABLE: Reason.UNAVAILABLE,
    Fault.TIMED_OUT: Reason.TIMED_OUT,
    Fault.RATE_LIMITED: Reason.RATE_LIMITED,
}
_NOTHING = Usage()


class Ask:
    """An `engine.Job`: one call that asks for one row, or for several (a pack).

    What is asked again:
    - an invalid answer: once, with what was wrong and what is allowed; then `invalid_answer`, with the model's text;
    - MAX_TOKENS: once, with a doubled limit; then `max_tokens`;
    - an empty answer without a reason: once; then `empty_answer`.
    A block is final. A pack that is blocked, cut off, empty or failed is split in halves, down to single images; so is
    one whose parts cannot be told apart. Where only some parts are missing or invalid, only these are asked again.

    Args:
        question: what is asked.
        rows: one row, or several for one call; at least one.
        usages: what each row has cost in calls of a larger pack.
        attempts: attempts of that larger pack.
        calls: calls of that larger pack.
        correction: what was wrong with the answer of that larger pack.
        pictures: for each row what is sent inline; empty where URIs are sent. A picture that could not be read stands
            alone.
    """

    __slots__ = (
        "_attempts",
        "_calls",
        "_corrected",
        "_correction",
        "_doubled",
        "_limit",
        "_pictures",
        "_question",
        "_reasked",
        "_rows",
        "_usages",
    )

    def __init__(
        self,
        question: Question,
        rows: tuple[Observation, ...],
        *,
        usages: Sequence[Usage] | None = None,
        attempts: int = 0,
        calls: int = 0,
        correction: str | None = None,
        pictures: tuple[Picture, ...] = (),
    ) -> None:
        self._question = question
        self._rows = rows
        self._pictures = pictures
        self._usages = list(usages) if usages is not None else [_NOTHING] * len(rows)
        self._attempts = attempts
        self._calls = calls
        self._correction = correction
        self._corrected = correction is not None
        self._limit: int | None = None
        self._doubled = False
        self._reasked = False

    @property
    def rows(self) -> int:
        """Rows that the call answers."""
        return len(self._rows)

    def go_on_with(self, question: Question) -> None:
        """Later calls ask, and are paid, as this question says: the same one in another tier. What was before stays."""
        self._question = question

    @property
    def unread(self) -> Picture | None:
        """The picture that is still to be read, or None."""
        first = self._pictures[0] if self._pictures else None
        return first if first is not None and first.problem is not None else None

    def tokens(self) -> int:
        """Planned tokens of the next call."""
        if self.unread is not None:
            return 0
        return self._question.planned(len(self._rows), self._question.views(self._rows)).total_tokens

    def request(self) -> bytes | Ask:
        """The next call's request; the ask itself while its picture is not read, which the transport sees to."""
        if self.unread is not None:
            return self
        inline = [picture.inline for picture in self._pictures]
        return self._question.builder.build(
            self._rows, correction=self._correction, max_output_tokens=self._limit, inline=inline or None
        )

    def answered(self, received: Any, latency_ms: float, attempts: int, calls: int) -> Step:
        """What to make of a GenerateContentResponse; see the class."""
        reply = response.read(received)
        known = reply.total_tokens > 0
        self._charge(self._question.usage(reply) if known else self._question.planned_usage(self._rows))
        attempts, calls = attempts + self._attempts, calls + self._calls
        if len(self._rows) > 1:
            return self._pack_answered(reply, latency_ms, attempts, calls)
        if reply.outcome is Outcome.ANSWERED:
            parsed = self._question.task.parse(reply.text)
            if not isinstance(parsed, Invalid):
                answer = self._answer(0, Packed(reply.text, parsed), reply, latency_ms, attempts)
                return Landed((answer,), reply.total_tokens)
            if not self._corrected:
                self._corrected = True
                self._correction = self._question.task.correction(parsed.why)
                return Again(reply.total_tokens)
            return self._failed(Reason.INVALID_ANSWER, parsed.why, attempts, calls, reply)
        if reply.outcome is Outcome.CUT_OFF:
            return self._cut_off(reply, attempts, calls)
        if reply.outcome is Outcome.EMPTY:
            if not self._reasked:
                self._reasked = True
                return Again(reply.total_tokens)
            return self._failed(Reason.EMPTY_ANSWER, reply.finish_reason, attempts, calls, reply)
        detail = f"{reply.finish_reason}: {reply.detail}" if reply.detail else reply.finish_reason
        return self._failed(Reason.BLOCKED, detail, attempts, calls, reply)

    def failed(self, fault: Fault, error: CallError, attempts: int, calls: int) -> Step:
        """What to make of it that the engine gave up."""
        attempts, calls = attempts + self._attempts, calls + self._calls
        # Quota is no image's fault, and the parts of a pack would cost more of it.
        if len(self._rows) > 1 and fault is not Fault.RATE_LIMITED:
            return Split(self._halves(range(len(self._rows)), attempts, calls))
        unread = self.unread
        reason = unread.problem.reason if unread is not None and unread.problem is not None else _REASONS[fault]
        question = self._question
        failures = tuple(
            question.failure(row, reason, str(error), attempts=attempts, calls=calls, usage=usage)
            for row, usage in zip(self._rows, self._usages, strict=True)
        )
        for place, failure in enumerate(failures):
            self._tell(place, failure)
        return Landed(failures)

    def timed_out(self) -> None:
        """Charge a call whose answer will never be known as it was planned."""
        self._charge(self._question.planned_usage(self._rows))

    def _cut_off(self, reply: Reply, attempts: int, calls: int) -> Step:
        limit = self._limit or self._question.settings.max_output_tokens
        if not self._doubled and limit < MAX_OUTPUT_TOKENS:
            self._doubled = True
            self._limit = min(2 * limit, MAX_OUTPUT_TOKENS)
            return Again(reply.total_tokens)
        detail = f"the answer is longer than {limit:,} tokens, thinking included"
        return self._failed(Reason.MAX_TOKENS, detail, attempts, calls, reply)

    def _pack_answered(self, reply: Reply, latency_ms: float, attempts: int, calls: int) -> Step:
        everyone = range(len(self._rows))
        if reply.outcome is not Outcome.ANSWERED:
            return Split(self._halves(everyone, attempts, calls), tokens=reply.total_tokens)
        keys = image_keys(len(self._rows))
        parts = self._question.task.parse_pack(reply.text, keys)
        if isinstance(parts, Invalid):
            return Split(self._halves(everyone, attempts, calls), tokens=reply.total_tokens)
        outcomes: list[Answer] = []
        again: list[Ask] = []
        missing: list[int] = []
        for place, key in enumerate(keys):
            part = parts.get(key)
            if part is None:
                missing.append(place)
            elif isinstance(part.answer, Invalid):
                correction = self._question.task.correction(part.answer.why)
                again.append(self._part((place,), attempts, calls, correction))
            else:
                outcomes.append(self._answer(place, part, reply, latency_ms, attempts))
        jobs = (*again, *self._halves(missing, attempts, calls))
        if not jobs:
            return Landed(tuple(outcomes), reply.total_tokens)
        return Split(jobs, tuple(outcomes), reply.total_tokens)

    def _halves(self, places: Sequence[int], attempts: int, calls: int) -> tuple[Ask, ...]:
        middle = (len(places) + 1) // 2
        return tuple(self._part(half, attempts, calls) for half in (places[:middle], places[middle:]) if half)

    def _part(self, places: Sequence[int], attempts: int, calls: int, correction: str | None = None) -> Ask:
        return Ask(
            self._question,
            tuple(self._rows[place] for place in places),
            usages=[self._usages[place] for place in places],
            attempts=attempts,
            calls=calls,
            correction=correction,
            pictures=tuple(self._pictures[place] for place in places) if self._pictures else (),
        )

    def _tell(self, place: int, outcome: AnyOutcome) -> None:
        """Whoever waits for this picture hears what became of it."""
        if self._pictures:
            self._pictures[place].landed(outcome)

    def _charge(self, usage: Usage) -> None:
        if len(self._rows) == 1:
            self._usages[0] = usage if self._usages[0] is _NOTHING else self._usages[0] + usage
            return
        for place, share in enumerate(shares(usage, len(self._rows))):
            self._usages[place] = self._usages[place] + share

    def _answer(self, place: int, part: Packed, reply: Reply, latency_ms: float, attempts: int) -> Answer:
        question, row, parsed = self._question, self._rows[place], part.answer
        assert not isinstance(parsed, Invalid)  # noqa: S101 - told apart by both callers
        answer = Answer(
            row.key,
            row.gcs_uri or "",
            question.kept(row),
            question.task.name,
            question.fingerprint,
            part.text,
            parsed.answer_json,
            parsed.label,
            question.settings.model,
            reply.model_version or question.settings.model,
            reply.finish_reason,
            reply.traffic_type,
            self._usages[place],
            latency_ms,
            attempts,
            question.run_id,
            question.clock(),
        )
        self._tell(place, answer)
        return answer

    def _failed(self, reason: Reason, detail: str, attempts: int, calls: int, reply: Reply) -> Landed:
        failure = self._question.failure(
            self._rows[0], reason, detail, attempts=attempts, calls=calls, usage=self._usages[0], text=reply.text
        )
        self._tell(0, failure)
        return Landed((failure,), reply.total_tokens)


def shares(usage: Usage, count: int) -> list[Usage]:
    """A call's usage, shared among its rows: tokens add up to the call's exactly, dollars are shared equally.

    Args:
        usage: of the whole call.
        count: rows, at least 1.
    """
    prompt, output, thoughts = (
        _split(tokens, count) for tokens in (usage.prompt_tokens, usage.output_tokens, usage.thoughts_tokens)
    )
    rest = _split(usage.total_tokens - usage.prompt_tokens - usage.output_tokens - usage.thoughts_tokens, count)
    cost = None if usage.cost_usd is None else usage.cost_usd / count
    return [
        Usage(prompt[i], output[i], thoughts[i], prompt[i] + output[i] + thoughts[i] + rest[i], cost)
        for i in range(count)
    ]


def _split(total: int, count: int) -> list[int]:
    each, more = divmod(total, count)
    return [each + (place < more) for place in range(count)]
