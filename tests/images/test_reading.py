"""Reading ahead of the engine: bounded, never blocking what is ready, every row out once; twins are asked once."""

from __future__ import annotations

import dataclasses
import gc
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from pipeline.asking import Ask, ImageError, Picture, Problem, Question
from pipeline.engine.call import CallError, Fault
from pipeline.gemini import models
from pipeline.images import pool as pools
from pipeline.images.pool import AHEAD, THREADS_PER_CORE, Pool
from pipeline.images.reading import Reading
from pipeline.images.transport import Transport
from pipeline.images.twins import Lead, Twins, share
from pipeline.rows import Failure, Observation, Reason, Usage
from pipeline.task import Task

TASK = Task.load("road_signs")
WAIT_SECS = 10.0


def picture_bytes(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def question(task=TASK, images_per_request=1) -> Question:
    settings = models.settings_for(task, images_per_request=images_per_request)
    settings = dataclasses.replace(settings, image_source="inline", max_image_pixels=0)
    return Question(
        task=task, settings=settings, resource="projects/p/locations/us/publishers/google/models/m", run_id="r"
    )


def row(number: int | str) -> Observation:
    return Observation(f"k{number}", f"gs://b/{number}.png", {})


class Rig:
    """A pool that reads made-up objects, and bundles on it."""

    def __init__(self, asked=None, read=None, patience_secs=WAIT_SECS) -> None:
        self.question = asked or question()
        self.pool = Pool(self.question, read or self.read, cores=1)
        self.twins = Twins(self.pool.changed)
        self.stopped = False
        self.expected = 0
        self.patience_secs = patience_secs
        self.gate = threading.Event()
        self.gate.set()
        self.now = self.most = 0
        self._lock = threading.Lock()

    def read(self, uri: str) -> bytes:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.gate.wait(WAIT_SECS)
        with self._lock:
            self.now -= 1
        return picture_bytes(int(uri.removeprefix("gs://b/").partition(".")[0]))

    def bundle(self) -> Reading:
        return Reading(
            self.question,
            self.pool,
            self.twins,
            ask=lambda rows, pictures: Ask(self.question, tuple(rows), pictures=tuple(pictures)),
            expect=self._expect,
            stopped=lambda: self.stopped,
            patience_secs=self.patience_secs,
        )

    def _expect(self, rows: int) -> None:
        self.expected += rows

    def all_of(self, reading: Reading, rows) -> list:
        out = []
        for each in rows:
            out += reading.add(each)
        return out + list(reading.rest())


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.gate.set()
    made.pool.close()


def keys(ask: Ask) -> list[str]:
    return [picture.row.key for picture in ask._pictures]


def answer(rig: Rig, ask: Ask, text: str = '{"sign_type": "stop", "condition": "good", "legible_text": "STOP"}'):
    """The ask lands with this text."""
    from pipeline.gemini.request import response_class

    message = response_class()()
    message.candidates.add(finish_reason=1).content.parts.add(text=text)
    return ask.answered(message, 5.0, 1, 1)


def test_every_row_comes_out_once_in_packs_of_the_right_size():
    rig = Rig(question(images_per_request=4))
    asks = rig.all_of(rig.bundle(), [row(number) for number in range(30)])
    assert sorted(key for ask in asks for key in keys(ask)) == sorted(f"k{number}" for number in range(30))
    assert [len(keys(ask)) for ask in asks] == [4] * 7 + [2]
    rig.pool.close()


def test_what_is_read_at_once_is_bounded_and_so_is_what_is_held(rig, monkeypatch):
    rig.gate.clear()
    reading, other = rig.bundle(), rig.bundle()
    for number in range(AHEAD * THREADS_PER_CORE):
        assert list(reading.add(row(number))) == []
    assert not rig.pool.admits(reading=1)
    assert rig.pool.admits(reading=0), "a bundle that reads nothing may always read: else its pack might never be full"
    rig.gate.set()
    asks = list(reading.rest())
    assert rig.most <= THREADS_PER_CORE
    monkeypatch.setattr(pools, "MAX_HELD_BYTES", 1)
    assert not rig.pool.admits(reading=1), "images are held as long as their asks are there"
    asks.clear()
    assert rig.pool.admits(reading=1)
    assert rig.all_of(other, [row(500)])


def test_a_bundle_that_waits_for_room_hands_on_what_is_ready_meanwhile(rig, monkeypatch):
    monkeypatch.setattr(pools, "MAX_HELD_BYTES", 1)
    asks = rig.all_of(rig.bundle(), [row(number) for number in range(6)])
    assert len(asks) == 6


def test_an_image_of_its_own_fault_fails_without_an_ask_and_a_bug_is_raised():
    rig = Rig(read=lambda uri: b"" if "1.png" in uri else picture_bytes(7))
    first, second = sorted(rig.all_of(rig.bundle(), [row(1), row(2)]), key=lambda each: isinstance(each, Ask))
    assert isinstance(first, Failure) and first.reason is Reason.IMAGE_EMPTY and first.calls == 0
    assert isinstance(second, Ask)
    assert rig.expected == 1
    broken = Rig(read=lambda uri: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        broken.all_of(broken.bundle(), [row(1)])


def test_twins_in_one_bundle_and_in_another_are_asked_once(rig):
    mine, other = rig.bundle(), rig.bundle()
    same = [Observation(f"t{number}", "gs://b/5.png", {}) for number in range(4)]
    (ask,) = rig.all_of(mine, same[:3])
    assert rig.all_of(other, same[3:]) == []
    assert mine.waiting and other.waiting
    (landed,) = answer(rig, ask).outcomes
    shared = [*mine.late(), *other.late()]
    assert {each.key for each in (landed, *shared)} == {each.key for each in same}
    assert {each.shared_with for each in shared} == {landed.key}
    assert {each.classification for each in shared} == {landed.classification}
    assert {each.usage for each in shared} == {Usage(cost_usd=None)}, "a price that is not known stays unknown"
    assert not mine.waiting and not other.waiting
    (late,) = rig.all_of(rig.bundle(), [Observation("t9", "gs://b/5.png", {})])
    assert late.shared_with == landed.key
    (again,) = rig.all_of(rig.bundle(), [Observation(landed.key, "gs://b/5.png", {})])
    assert again == landed, "a bundle that is run again gets back what it has paid for"
    assert rig.expected == 5


def test_a_twin_whose_lead_fails_for_a_passing_reason_or_is_dropped_is_asked_itself(rig):
    mine, other = rig.bundle(), rig.bundle()
    (lead,) = rig.all_of(mine, [row(5)])
    assert rig.all_of(other, [Observation("twin", "gs://b/5.png", {})]) == []
    lead.failed(Fault.UNAVAILABLE, CallError("UNAVAILABLE", "no"), 5, 5)
    (own,) = other.late()
    assert keys(own) == ["twin"]
    (lead,) = rig.all_of(mine, [row(6)])
    assert rig.all_of(other, [Observation("twin", "gs://b/6.png", {})]) == []
    del lead
    gc.collect()
    (own,) = other.late()
    assert keys(own) == ["twin"]


def test_a_failed_bundle_lets_go_of_its_images_and_of_those_who_wait():
    packed = Rig(question(images_per_request=5))
    failed, other = packed.bundle(), packed.bundle()
    for number in (1, 2):
        assert list(failed.add(row(number))) == []
    while failed._reads:
        assert list(failed._taken()) == []
        failed._wait(lambda: False)
    assert packed.all_of(other, [Observation("twin", "gs://b/1.png", {})]) == []
    failed.close()
    (own,) = other.late()
    assert keys(own) == ["twin"]
    assert packed.pool._held_bytes == sum(len(data) for _, data in own._pictures[0].inline)
    packed.pool.close()


def test_a_twin_does_not_wait_for_ever_nor_after_the_run_has_stopped():
    rig = Rig(patience_secs=0.0)
    mine, other = rig.bundle(), rig.bundle()
    (lead,) = rig.all_of(mine, [row(5)])
    assert rig.all_of(other, [Observation("twin", "gs://b/5.png", {})]) == []
    (own,) = other.late()
    assert keys(own) == ["twin"]
    third = rig.bundle()
    assert rig.all_of(third, [Observation("third", "gs://b/5.png", {})]) == []
    rig.stopped = True
    assert list(third.late()) == []
    assert not third.waiting
    assert list(third.add(row(9))) == list(third.rest()) == []
    assert lead


def test_a_final_failure_of_a_twin_is_shared_too(rig):
    (lead,) = rig.all_of(rig.bundle(), [row(5)])
    reading = rig.bundle()
    assert rig.all_of(reading, [Observation("twin", "gs://b/5.png", {})]) == []
    for _ in range(2):
        step = answer(rig, lead, text="no JSON")
    (shared,) = reading.late()
    assert step.outcomes[0].reason is shared.reason is Reason.INVALID_ANSWER
    assert (shared.calls, shared.key) == (0, "twin")
    assert shared.detail.startswith("the same image as k5: ")


def test_rows_with_other_values_in_the_prompt_are_no_twins():
    rig = Rig(question(TASK.with_prompt("What is {asset_type}?")))
    same = [Observation(f"t{kind}", "gs://b/5.png", {"asset_type": kind}) for kind in "ABA"]
    asks = rig.all_of(rig.bundle(), same)
    assert sorted(key for ask in asks for key in keys(ask)) in (["tA", "tB"], ["tB", "tA"])
    assert len(asks) == 2


def test_what_is_remembered_is_bounded():
    twins = Twins(threading.Condition(), remembered=3)
    failure = question().failure(row(1), Reason.BLOCKED, "", attempts=1, calls=1, usage=Usage())
    for number in range(10):
        lead = twins.meet(bytes([number]), lambda _: None)
        assert isinstance(lead, Lead)
        lead.settle(failure)
    assert len(twins._known) == 3 and not twins._asked
    assert twins.meet(b"\x09", lambda _: None) == failure
    long = question().failure(row(1), Reason.BLOCKED, "", attempts=1, calls=1, usage=Usage(), text="x" * 5000)
    lead = twins.meet(b"long", lambda _: None)
    assert isinstance(lead, Lead)
    lead.settle(long)
    assert isinstance(twins.meet(b"long", lambda _: None), Lead)


def test_many_bundles_at_once_ask_each_picture_once_and_lose_no_row(rig):
    """Eight threads, each with its own order of the same 40 pictures; asks land while the others go on."""
    bundles, pictures = 8, 40
    asked: list[str] = []
    outcomes: list[tuple[int, str]] = []

    def run(number: int) -> None:
        reading = rig.bundle()

        def landed(ready) -> None:
            for each in ready:
                if isinstance(each, Ask):
                    asked.extend(picture.row.gcs_uri for picture in each._pictures)
                    outcomes.extend((number, outcome.key) for outcome in answer(rig, each).outcomes)
                else:
                    outcomes.append((number, each.key))

        for place in range(pictures):
            picture = (place * (number + 3)) % pictures if number % 2 else pictures - 1 - place
            landed(reading.add(Observation(f"{number}/{place}", f"gs://b/{picture}.png", {})))
        landed(reading.rest())
        while reading.waiting:
            landed(reading.late())

    with ThreadPoolExecutor(bundles) as threads:
        for done in [threads.submit(run, number) for number in range(bundles)]:
            done.result(timeout=60)
    assert sorted(outcomes) == sorted((n, f"{n}/{place}") for n in range(bundles) for place in range(pictures))
    assert sorted(set(asked)) == sorted(asked)


class Calls:
    """A transport's `send` that keeps what it was given."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.cancelled = 0

    def __call__(self, request, timeout_secs, done):
        self.sent.append(request)
        done("landed")
        return self

    def cancel(self) -> None:
        self.cancelled += 1


def test_an_unread_image_fails_its_first_call_and_is_read_anew_for_each_other():
    denied = Problem(Reason.IMAGE_DENIED, "no", CallError("PERMISSION_DENIED", "no"))
    reads = [ImageError(denied), ImageError(denied), b"", picture_bytes(1)]

    def read(uri: str) -> bytes:
        found = reads.pop(0)
        if isinstance(found, ImageError):
            raise found
        return found

    rig = Rig(read=read)
    (ask,) = rig.all_of(rig.bundle(), [row(1)])
    send = Calls()
    transport = Transport(send, rig.pool)
    told: list = []
    came = threading.Event()

    def done(result) -> None:
        told.append(result)
        came.set()

    def call():
        came.clear()
        handle = transport(ask.request(), 5.0, done)
        assert came.wait(WAIT_SECS)
        return handle

    assert ask.tokens() == 0
    call()
    assert len(reads) == 3, "what was found ahead is told first"
    call()
    call()
    assert [error.code for error in told] == ["PERMISSION_DENIED", "PERMISSION_DENIED", "INVALID_ARGUMENT"]
    (failure,) = ask.failed(Fault.INVALID, told[-1], 3, 3).outcomes
    assert failure.reason is Reason.IMAGE_EMPTY
    handle = call()
    assert told[-1] == "landed" and len(send.sent) == 1 and ask.unread is None
    handle.cancel()
    transport(b"bytes", 5.0, done)
    assert send.sent[-1] == b"bytes"
    rig.pool.close()


def test_a_picture_without_twins_is_shared_with_nobody():
    picture = Picture(row(1))
    failure = question().failure(row(1), Reason.BLOCKED, "", attempts=1, calls=1, usage=Usage())
    picture.landed(failure)
    assert share(failure, row(1), question()) is failure
