"""`run`: one stage of the study, or all of them, over all runs or some."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from retrieval_heads import paths
from retrieval_heads.cluster import connected
from retrieval_heads.commands.choice import add_choice, chosen, leading, log_to_stderr
from retrieval_heads.config import config_hash
from retrieval_heads.executor import kept_workers
from retrieval_heads.keys import Options, study_grid
from retrieval_heads.needs import check_needs
from retrieval_heads.settings import Profile

STAGES = {
    "base": "score the base model before extension",
    "data": "make the examples and their statistics",
    "finetune": "fine-tune an adapter a task, condition and seed, and score it",
    "lengths": "score some runs at other lengths",
    "detect": "score every head of every run",
    "knockout": "knock out retrieval heads and random ones",
    "patch": "patch heads of the real run into the synthetic runs",
    "gold_loss": "knock out and patch heads by the loss of the gold answer",
    "correlate": "overlap of heads with those of the runs on real data",
    "claims": "decide the claims by the rules of the preregistration",
    "decide": "decide them by the rules for the pretrained model",
}
"""In the order in which they build on each other; each is `retrieval_heads.stages.NAME.run(profile, options)`."""

FROM_TABLES = {"correlate", "claims", "decide"}
"""Stages that need neither models nor examples."""

EXAMPLES = """\
examples:
  python -m retrieval_heads run all --profile smoke
      every stage on very little data, in seconds
  python -m retrieval_heads run finetune --profile report --device cuda \\
      --workers 4
      fine-tune all runs of the report on one GPU; give the same command again
      to go on after an interruption
  python -m retrieval_heads run detect --profile quick --task mdqa --limit 4
      try one task on four examples; the results go to runs/quick-limit4
  accelerate launch --num_processes 4 --use_fsdp -m retrieval_heads run \\
      finetune --profile paper --device cuda
      train each run on four GPUs together (without --use_fsdp each holds the
      whole model)
  python -m retrieval_heads run all --profile report --dry-run
      list what would be run, and run nothing
"""


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `run` to the command line."""
    parser = verbs.add_parser(
        "run", help="run one stage of the study, or all", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Stages:\n" + "\n".join(f"  {name:10} {what}" for name, what in STAGES.items())
                    + "\n  all        every stage in this order",
    )
    parser.add_argument("stage", choices=[*STAGES, "all"], metavar="STAGE", help=f"{', '.join(STAGES)} or all")
    add_choice(parser)
    parser.add_argument("--dry-run", action="store_true", help="list the stages and runs, and run nothing")
    parser.set_defaults(function=_run)


def run_stage(name: str, profile: Profile, options: Options) -> list[Path]:
    """Run one stage and say on standard output what it made, on one line; returns the paths of its tables."""
    start = time.perf_counter()
    made = importlib.import_module(f"retrieval_heads.stages.{name}").run(profile, options)
    tables = ", ".join(paths.shown(Path(path)) for path in made)
    print(f"{name}: {tables or 'nothing to make'} ({time.perf_counter() - start:.1f} s)", flush=True)
    return made


def _run(parsed: argparse.Namespace) -> None:
    profile, options = chosen(parsed)
    grid = study_grid(profile, options.task, options.seed, options.base)
    stages = list(STAGES) if parsed.stage == "all" else [parsed.stage]
    if parsed.dry_run:
        print(f"profile {profile.name}, settings {config_hash(profile)}, results in "
              f"{paths.runs_folder(profile.name)}")
        print(f"stages: {', '.join(stages)}")
        print("\n".join(["runs:", *(f"  {key.name}" for key in grid)]))
        return
    if not set(stages) <= FROM_TABLES:
        check_needs(profile, options.task, options.base)
    with leading(profile) as led:
        if led is None:
            return
        with log_to_stderr(), kept_workers(led.workers, led.threads), connected(parsed.scheduler):
            for stage in stages:
                run_stage(stage, led, options)
