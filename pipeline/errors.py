"""What can go wrong with a run as a whole; what goes wrong with one row is a `Failure` value instead.

PipelineError
 +-- ConfigError   wrong options or environment; nothing was spent            exit code 2
 +-- Halted        the run stopped itself: no row can mend what went wrong    exit code 4
 +-- Interrupted   SIGINT or SIGTERM; what had arrived was written            exit code 130
 +-- BooksError    the tables do not add up                                   exit code 1

Anything else that is raised is a bug (exit code 1, with its stack trace).
"""


class PipelineError(Exception):
    """One line that says what happened and what to do; `exit_code` is what the process ends with."""

    exit_code = 1


class ConfigError(PipelineError):
    """Wrong options or environment, found before anything was spent."""

    exit_code = 2


class Halted(PipelineError):
    """The run stopped itself for a reason that no row can mend (permission, model gone, billing off)."""

    exit_code = 4


class Interrupted(PipelineError):
    """The user stopped the run; the same command resumes it."""

    exit_code = 130


class BooksError(PipelineError):
    """The distinct keys of a worklist are not answered + failed + not asked."""
