"""`python -m pipeline plan`: what classify would ask, cost and take, by the same flags; asks nothing, creates nothing."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import console, options, planning
from pipeline.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Print the plan.

    Returns:
        0; 2 when classify would refuse to start, with its reason.
    """
    if "--help" in argv or "-h" in argv:
        print("usage: python -m pipeline plan --flag=value ...   (the flags of classify)\n" + options.help_text())
        return 0
    given, rest = options.parse(argv)
    if rest:
        from pipeline import submit  # only Beam's own flags, or misspelt ones, are worth loading Beam for

        submit.beam_options(argv, given)
    plan = planning.make(given)
    for warning in plan.warnings:
        console.note(f"warning: {warning}")
    console.table("Plan", ("what", "how much"), plan.lines())
    for mark, answers, changes in plan.asked_before:
        console.say(f"{answers:,} answers to another version of this question ({mark}): {'; '.join(changes)}")
    try:
        planning.check_spending(plan)
    except ConfigError as error:
        console.say(f"classify would stop here: {error}")
        return error.exit_code
    return 0
