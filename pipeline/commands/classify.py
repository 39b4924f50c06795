"""`python -m pipeline classify`: ask the question about every row of the input and write the answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipeline import console, launch, options, planning
from pipeline.options import Options
from pipeline.plan import Plan
from pipeline.running import EXIT_DONE, run_to_end, terminable

__all__ = ["main", "run_to_end", "show"]


def main(argv: Sequence[str]) -> int:
    """Plan, check, ask once for real, run the graph, close the books.

    Returns:
        0 done; 3 done, but more rows failed than --max_failure_ratio allows; others as `pipeline.errors` says.
    """
    if "--help" in argv or "-h" in argv:
        print("usage: python -m pipeline classify --flag=value ...\n" + options.help_text())
        return EXIT_DONE
    given, beams = options.parse(argv)
    logging.basicConfig(handlers=[console.LogHandler()], format=logging.BASIC_FORMAT)  # others' warnings
    evaluates_first = check(argv, given, beams)
    with console.busy("loading Beam", quiet=given.quiet):
        from pipeline import submit, worker  # with Beam: only once our own flags are known to be right
        from pipeline.batch import run as batch
        from pipeline.commands import evaluate

    beam_options = submit.beam_options(argv, given)
    with terminable():
        with console.busy("counting the rows", quiet=given.quiet):
            plan = planning.make(given)
        show(plan)
        planning.check_spending(plan)
        if evaluates_first:
            evaluate.check(given, plan.task, beams)
            plan = planning.make(given)  # the labelled rows are answered now
        try:
            if given.mode == "batch" or plan.split.batch or batch.goes_on(plan):
                return batch.run_batch(plan, beam_options)
            batch.refuse_online(plan)
            with console.busy("writing the worklist", quiet=given.quiet):
                run = launch.prepare(plan, submit.processes(beam_options, given))
            return run_to_end(run, beam_options)
        finally:
            worker.close_all()


def check(argv: Sequence[str], given: Options, beams: Sequence[str]) -> bool:
    """What flags alone can be wrong with: `plan` and `doctor` refuse what `classify` refuses.

    Beam is loaded only where there are flags of its own, or misspelt ones, or a runner that needs some.

    Returns:
        Whether labelled rows are to be evaluated before the others are asked.

    Raises:
        ConfigError: which flag is wrong.
    """
    from pipeline.batch import flags
    from pipeline.commands import evaluate

    flags.check(given)
    evaluates_first = evaluate.demanded(given)
    if beams or given.runner != "DirectRunner":
        with console.busy("loading Beam", quiet=given.quiet):
            from pipeline import submit

        made = submit.beam_options(argv, given)
        flags.check(given, forks=submit.forks(made, given))
        launch.shares(given, submit.processes(made, given))
    return evaluates_first


def show(plan: Plan) -> None:
    """The plan, and what to know before paying, on stderr."""
    if plan.options.quiet:
        return
    for warning in plan.warnings:
        console.note(f"warning: {warning}")
    if plan.buys_again and plan.options.accept_new_fingerprint:
        console.note(f"warning: {plan.buys_again}")
    lines = plan.lines()
    width = max(len(what) for what, _ in lines)
    for what, value in lines:
        console.note(f"{what:>{width}}  {value}")
