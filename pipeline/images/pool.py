"""The threads of a process that read images and make them ready, and what they may hold in memory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pipeline.asking import ImageError, Picture, Problem, Question
from pipeline.gemini.request import Inline
from pipeline.images import box, limits
from pipeline.rows import Observation, Reason

THREADS_PER_CORE, MOST_THREADS = 8, 32
"""Reading an image waits for the network some 50 to 150 ms and computes for 5 to 50 ms; both release the interpreter's
lock. So eight threads keep a core busy, and more only hold more memory."""

AHEAD = 2
"""Rows that are read or wait for a thread, by threads: each has the next one ready."""

MAX_HELD_BYTES = 256_000_000
"""Bytes of images that are ready or in flight, after which nothing more is read: with that, those that are being read and
decoded, the images of a process take about 256 MB, 30 MB a thread and 200 MB a core at the very most; far less with
usual ones."""

Done = Callable[["Picture | BaseException"], None]


class Pool:
    """Reads images ahead of the engine. Thread-safe; one for each process.

    Args:
        question: what is asked; its settings say what is done to an image.
        read: gives the bytes of a URI, or raises `ImageError`.
        cores: how many images are decoded at once; default: this machine's.
    """

    def __init__(self, question: Question, read: Callable[[str], bytes], *, cores: int | None = None) -> None:
        cores = cores or os.cpu_count() or 1
        threads = min(MOST_THREADS, THREADS_PER_CORE * cores)
        self.changed = threading.Condition(threading.RLock())
        """Notified when an image is ready or gone."""
        self._question = question
        self._read = read
        self._executor = ThreadPoolExecutor(threads, "image")
        # Threads of their own, as the allocator keeps for each thread what it has once freed: 100 MB for each that decodes.
        self._decoders = ThreadPoolExecutor(cores, "decode")
        self._most_read = AHEAD * threads
        self._being_read = 0
        self._held_bytes = 0

    def admits(self, reading: int) -> bool:
        """Whether one more row may be read for somebody who has so many being read: the first always may."""
        with self.changed:
            return not reading or (self._being_read < self._most_read and self._held_bytes < MAX_HELD_BYTES)

    def start(self, row: Observation, done: Done) -> None:
        """Reads a row's images on a thread of the pool; `done` is told the picture there, or what is a bug."""
        with self.changed:
            self._being_read += 1

        def run() -> None:
            try:
                got: Picture | BaseException = self.picture(row)
            except BaseException as bug:  # noqa: BLE001 - raised again on the thread that waits for it
                got = bug
            done(got)
            del got
            with self.changed:
                self._being_read -= 1
                self.changed.notify_all()

        self._executor.submit(run)

    def picture(self, row: Observation) -> Picture:
        """Reads a row's images on this thread: what is to be sent, or what the problem is."""
        question, settings = self._question, self._question.settings
        uris = question.builder.uris(row)
        treatment = limits.treatment(settings, max(len(uris), settings.images_per_request))
        try:
            cut = box.of_row(settings.crop_to, row.columns) if settings.crop_to else None
            inline = [self._ready(uri, treatment, cut) for uri in uris]
        except ImageError as error:
            return Picture(row, problem=error.problem)
        except box.BoxError as error:
            return Picture(row, problem=Problem(Reason.UNUSABLE_BBOX, str(error)))
        held = sum(len(data) for _, data in inline)
        with self.changed:
            self._held_bytes += held
        free = functools.partial(self._free, held)
        return Picture(row, tuple(inline), digest=_digest(question, row, inline), free=free)

    def close(self) -> None:
        """Nothing more is read; what is being read ends by itself, within its time-out."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False)

    def _ready(self, uri: str, treatment: limits.Treatment, cut: box.Box | None) -> Inline:
        from pipeline.images import prepare

        data = self._read(uri)
        try:
            return self._decoders.submit(prepare.prepare, data, treatment, cut).result()
        except ImageError as error:
            raise ImageError(dataclasses.replace(error.problem, detail=f"{uri}: {error.problem.detail}")) from error

    def _free(self, held: int) -> None:
        with self.changed:
            self._held_bytes -= held
            self.changed.notify_all()


def _digest(question: Question, row: Observation, inline: list[Inline]) -> bytes:
    """Of all that differs between the requests of a run: the images, and the prompt with the row's own values."""
    digest = hashlib.blake2b(question.task.prompt_for(row.columns).encode("utf-8", "surrogatepass"), digest_size=16)
    for kind, data in inline:
        digest.update(f"\0{kind}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.digest()
