"""A service in a child process: waits until it says that it is ready."""

from __future__ import annotations

import subprocess
import threading


def first_line(process: subprocess.Popen[str], timeout_secs: float) -> str:
    """The first line that the child prints; empty when it ends, or takes longer than that, which ends it.

    Raises:
        BaseException: what interrupts the waiting; the child is killed then.
    """
    watchdog = threading.Timer(timeout_secs, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        return process.stdout.readline() if process.stdout else ""
    except BaseException:
        process.kill()
        raise
    finally:
        watchdog.cancel()
