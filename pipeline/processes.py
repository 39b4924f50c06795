"""Worker processes on this machine, as Beam starts them, but for two things: Ctrl-C in a terminal leaves them to their launcher
(`leash`), and when one dies, the run ends."""

import contextlib
import functools
import logging
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from apache_beam.portability import python_urns
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.worker import data_plane

from pipeline.errors import PipelineError

# Beam's own command, in a session of its own: a terminal signals all processes of the launcher's. `exec` leaves no shell
# between that would end with a code of its own.
_MAIN = (
    "import os, runpy; os.setsid(); runpy.run_module('apache_beam.runners.worker.sdk_worker_main', None, '__main__')"
)
_COMMAND = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(_MAIN)}"
_AGAIN_SECS = 0.5


@contextlib.contextmanager
def watched(died: Callable[[PipelineError], None]) -> Iterator[None]:
    """While the block lasts, worker processes that this one starts are watched.

    Args:
        died: told when one has ended with an error; what runs the graph raises the same.
    """
    kinds, urn, log = (
        worker_handlers.WorkerHandler._registered_environments,
        python_urns.SUBPROCESS_SDK,
        data_plane._LOGGER,
    )
    beams, hook = kinds[urn], threading.excepthook

    def said(record: logging.LogRecord) -> bool:
        return not (record.exc_info and record.exc_info[0] is grpc.RpcError)

    def raised(raised: threading.ExceptHookArgs) -> None:
        if raised.exc_type is not grpc.RpcError:
            hook(raised)

    kinds[urn] = (functools.partial(_Handler, died), bytes)
    log.addFilter(said)  # that the one at the other end is gone is no news, and no stack trace of a thread explains it
    threading.excepthook = raised
    try:
        yield
    finally:
        kinds[urn], threading.excepthook = beams, hook
        log.removeFilter(said)


class _Handler(worker_handlers.SubprocessSdkWorkerHandler):
    """Beam's end of one process."""

    def __init__(self, died: Callable[[PipelineError], None], _command: bytes, *given: Any) -> None:
        super().__init__(_COMMAND.encode(), *given)
        self._died = died
        self._fault: PipelineError | None = None
        self._closed = threading.Event()

    def start_worker(self) -> None:
        self.worker = local_job_service.SubprocessSdkWorker(
            self._worker_command_line, self.control_address, self.provision_info, self.worker_id
        )
        self.worker_thread = threading.Thread(target=self._run, name="run_worker")
        self.worker_thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()  # type: ignore[no-untyped-call]  # Beam's own
        except RuntimeError as error:  # Beam's, of a code other than 0
            self._fault = fault = PipelineError(_words(int(str(error).rpartition(" ")[2])))
            self._died(fault)
            while not self._closed.is_set():  # what was asked of it, and what the runner may still ask
                with contextlib.suppress(RuntimeError):  # its requests change meanwhile
                    self.control_conn.abort(fault)
                self._closed.wait(_AGAIN_SECS)

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(*([grpc.RpcError] if self._fault else [])):
            super().close()
        self.worker_thread.join()


def _words(code: int) -> str:
    how = f"exit code {code}" if code > 0 else f"signal {-code}{', out of memory?' if code == -9 else ''}"
    return f"a worker process died ({how})"
