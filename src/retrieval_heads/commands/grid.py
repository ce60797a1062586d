"""`grid`: every run of a study through all its stages at once."""

from __future__ import annotations

import argparse
import time

from retrieval_heads.cluster import connected
from retrieval_heads.commands.choice import add_choice, chosen, leading, log_to_stderr
from retrieval_heads.needs import check_needs


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `grid` to the command line."""
    parser = verbs.add_parser(
        "grid", help="all runs of a study, each through all stages at once: for GPUs and limited time",
        epilog="Several GPUs: one such command for each, with CUDA_VISIBLE_DEVICES; they share the runs. Or "
               "--scheduler with one Dask worker for each.",
    )
    add_choice(parser)
    parser.add_argument("--seconds", type=float, metavar="S", help="begin nothing after so many seconds")
    parser.add_argument("--dry-run", action="store_true",
                        help="say how many runs are left and what they cost, as far as it was measured; run nothing")
    parser.set_defaults(function=_grid)


def _grid(parsed: argparse.Namespace) -> None:
    profile, options = chosen(parsed)
    if parsed.dry_run:
        from retrieval_heads.stages.grid import plan

        print("\n".join(plan(profile, options)))
        return
    check_needs(profile, options.task, options.base)
    from retrieval_heads.stages import grid

    start = time.perf_counter()
    with leading(profile) as led:
        if led is None:
            return
        with log_to_stderr(), connected(parsed.scheduler):
            made = grid.run(led, options, parsed.seconds)
    print(f"grid: {len(made)} tables ({time.perf_counter() - start:.1f} s)", flush=True)
