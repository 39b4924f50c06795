"""The process's own stdout and stderr: made so that nobody who reads them, or stops to, can change how a run ends."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


def harden() -> None:
    """Puts streams in place of `sys.stdout` and `sys.stderr` that no closed pipe, full disk or odd encoding makes raise.

    `classify | head -1` asks on to its end and has the exit code of the run. Text that the terminal's encoding lacks is
    written as escapes.
    """
    for number in range(3):  # a closed one would be the number of the next file or connection that is opened
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free: this one
    sys.stdout = _stream(1, sys.stdout, line_buffering=os.isatty(1))
    sys.stderr = _stream(2, sys.stderr, line_buffering=True)


def _stream(number: int, given: TextIO | None, *, line_buffering: bool) -> io.TextIOWrapper:
    if given is not None:
        given.flush()
    encoding = given.encoding if given is not None else "utf-8"
    raw = io.BufferedWriter(_Descriptor(number))
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering)


class _Descriptor(io.RawIOBase):
    """An open file descriptor to write to. Once it takes nothing any more, what is written is dropped."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self._broken = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, text: Buffer) -> int:
        data = memoryview(text)
        while not self._broken:
            try:
                return os.write(self._number, data)
            except BlockingIOError:  # whoever opened it asked not to wait; it is all the same to us
                select.select([], [self._number], [])
            except OSError:
                self._broken = True
        return len(data)
