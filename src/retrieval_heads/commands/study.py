"""The study: `run` one stage or all, `grid` all runs, `publish` the tables, `costs` before it begins."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from retrieval_heads import paths
from retrieval_heads.config import config_hash, limited, load_profile
from retrieval_heads.errors import ConfigError
from retrieval_heads.keys import Options, study_grid
from retrieval_heads.parallel import kept_workers, resolve_device
from retrieval_heads.settings import Profile
from retrieval_heads.workers import connected

STAGES = {
    "base": "score the base model before extension",
    "data": "make the examples and their statistics",
    "finetune": "fine-tune one adapter per task, condition and seed, and score it",
    "lengths": "score some runs at other lengths",
    "detect": "score every head of every run",
    "knockout": "knock out retrieval heads and random ones",
    "patch": "patch heads of the real run into the synthetic runs",
    "gold_loss": "knock out and patch heads, measured by the loss of the gold answer",
    "correlate": "overlap of heads with those of the runs on real data",
    "claims": "decide the claims by the rules of the preregistration",
    "decide": "decide the claims by the rules for the pretrained model",
}
"""In the order in which they build on each other; `stages.provide.stage_function` finds each."""

FROM_TABLES = {"correlate", "claims", "decide"}
"""Stages that need neither models nor examples."""

WITH_LOSSES = {"knockout": False, "patch": False, "gold_loss": True, "correlate": False, "claims": False,
               "decide": True}
"""Stages that are for profiles with `gold_loss` alone, or for those without."""

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


def add_run(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `run` to the command line."""
    parser = verbs.add_parser(
        "run", help="run one stage of the study, or all", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Stages:\n" + "\n".join(f"  {name:10} {what}" for name, what in STAGES.items())
                    + "\n  all        those of the profile, in this order",
    )
    parser.add_argument("stage", choices=[*STAGES, "all"], metavar="STAGE", help=f"{', '.join(STAGES)} or all")
    _add_choice(parser)
    parser.add_argument("--dry-run", action="store_true", help="list the stages and runs, and run nothing")
    parser.set_defaults(function=_run)


def stages_of(profile: Profile) -> list[str]:
    """The stages of a profile, in their order."""
    return [name for name in STAGES if WITH_LOSSES.get(name) in (None, profile.gold_loss is not None)]


def _run_stage(name: str, profile: Profile, options: Options) -> list[Path]:
    """Run one stage and say on standard output what it made, on one line; returns the paths of its tables."""
    from retrieval_heads.stages.provide import stage_function

    start = time.perf_counter()
    made = stage_function(name)(profile, options)
    tables = ", ".join(paths.shown(Path(path)) for path in made)
    print(f"{name}: {tables or 'nothing to make'} ({time.perf_counter() - start:.1f} s)", flush=True)
    return made


def _run(parsed: argparse.Namespace) -> None:
    profile, options = _chosen(parsed)
    grid = study_grid(profile, options.task, options.seed, options.base)
    stages = stages_of(profile) if parsed.stage == "all" else [parsed.stage]
    if parsed.dry_run:
        print(f"profile {profile.name}, settings {config_hash(profile)}, results in "
              f"{paths.runs_folder(profile.name)}")
        print(f"stages: {', '.join(stages)}")
        print("\n".join(["runs:", *(f"  {key.name}" for key in grid)]))
        return
    if not set(stages) <= FROM_TABLES:
        from retrieval_heads.bases import check_needs

        check_needs(profile, options.task, options.base)
    with _leading(profile) as led:
        if led is None:
            return
        with _log_to_stderr(), kept_workers(led.workers, led.threads), connected(parsed.scheduler):
            for stage in stages:
                _run_stage(stage, led, options)


def add_grid(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `grid` to the command line."""
    parser = verbs.add_parser(
        "grid", help="make all runs of a study, each through all stages in turn: for GPUs and limited time",
        epilog="Several GPUs: give one such command per GPU, with CUDA_VISIBLE_DEVICES; they share the runs. "
               "Or use --scheduler with one Dask worker per GPU.",
    )
    _add_choice(parser)
    parser.add_argument("--seconds", type=float, metavar="S", help="begin no further step after S seconds")
    parser.add_argument("--dry-run", action="store_true",
                        help="say how many runs are left and what they cost, if that was measured; run nothing")
    parser.set_defaults(function=_grid)


def _grid(parsed: argparse.Namespace) -> None:
    profile, options = _chosen(parsed)
    if parsed.dry_run:
        from retrieval_heads.stages.grid import plan

        print("\n".join(plan(profile, options)))
        return
    from retrieval_heads.bases import check_needs

    check_needs(profile, options.task, options.base)
    from retrieval_heads.stages import grid

    start = time.perf_counter()
    with _leading(profile) as led:
        if led is None:
            return
        with _log_to_stderr(), connected(parsed.scheduler):
            made = grid.run(led, options, parsed.seconds)
    print(f"grid: {len(made)} tables ({time.perf_counter() - start:.1f} s)", flush=True)


def add_publish(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `publish` to the command line."""
    parser = verbs.add_parser("publish", help="merge the finished parts of a profile, decide the claims, and copy "
                                "its tables to results/, to be committed")
    parser.add_argument("--profile", required=True, help="such as report, or the path of a YAML file")
    parser.add_argument("--derived", action="store_true",
                        help="recompute only what follows from the tables of runs in results/, which stay unchanged")
    parser.set_defaults(function=_publish)


def _publish(parsed: argparse.Namespace) -> None:
    from retrieval_heads.stages import base, claims, correlate, finetune, grid
    from retrieval_heads.store import derived_tables, publish

    profile = load_profile(parsed.profile)
    if parsed.derived:
        if profile.gold_loss is None:
            finetune.derive(profile)
            correlate.derive(profile)
    else:
        grid.merge(profile)
        base.run_data(profile)
    claims.judge(profile)
    for path in publish(profile, derived_tables(profile) if parsed.derived else None):
        print(paths.shown(path))


def add_costs(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `costs` to the command line."""
    parser = verbs.add_parser("costs", help="try a study on a few examples to estimate its time, memory and disk")
    parser.add_argument("--profile", required=True, help="paper, report, ... or the path of a YAML file")
    parser.add_argument("--random-weights", metavar="SHAPE",
                        help="a model of this shape with random weights instead of the profile's: a name in "
                        "configs/shapes, or the path of a config.json")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="its tokenizer (default: the embedded one)")
    parser.add_argument("--data", metavar="DIR", help="folder of examples instead of the profile's")
    parser.add_argument("--examples", type=int, default=2, metavar="N", help="examples of each kind (default 2)")
    parser.add_argument("--conditions", nargs="+", default=["symbolic"], help="tried beside `real` (default symbolic)")
    parser.add_argument("--seconds", type=float, metavar="S", help="begin no stage after S seconds")
    parser.add_argument("--device", help="auto, cpu, mps, cuda or cuda:INDEX instead of the profile's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives costs.csv and costs_full.csv")
    parser.set_defaults(function=_costs)


def _costs(parsed: argparse.Namespace) -> None:
    given = {"device": parsed.device, "data": parsed.data and str(Path(parsed.data).resolve())}
    if parsed.random_weights:
        from retrieval_heads.data.tokenizer import BASE_PATH
        from retrieval_heads.models.random_weights import make_random_model

        folder = paths.runs_folder("random") / Path(parsed.random_weights).stem
        make_random_model(parsed.random_weights, parsed.tokenizer or BASE_PATH, folder)
        given["bases"] = [str(folder)]
    elif parsed.tokenizer:
        raise ConfigError("only with --random-weights", where="--tokenizer", value=str(parsed.tokenizer),
                          remedy="A model with weights has its own.")
    profile = load_profile(parsed.profile, **{key: value for key, value in given.items() if value is not None})
    for name in parsed.conditions:
        if name not in profile.conditions:
            raise ConfigError("the profile has no such condition", where="--conditions", value=name,
                              remedy=f"Use some of {', '.join(profile.conditions)}.")
    from retrieval_heads.bases import check_needs

    check_needs(profile)
    from retrieval_heads.stages import costs

    tried = costs.small(profile, parsed.examples)
    parsed.out.mkdir(parents=True, exist_ok=True)
    measured = costs.measure(tried, parsed.out / "costs.csv", parsed.conditions, parsed.seconds)
    if measured.empty:
        raise ConfigError("no stage was tried", where="--seconds", value=parsed.seconds, remedy="Give more seconds.")
    table = costs.estimate(measured, profile)
    table.to_csv(parsed.out / "costs_full.csv", index=False)
    print(table.round(3).to_string(index=False, na_rep=""))


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """The options that say what to run, and where."""
    parser.add_argument("--profile", required=True, help="smoke, quick, live, report, paper or the path of a YAML file")
    parser.add_argument("--task", help="only this task: mdqa, musique or summhay")
    parser.add_argument("--seed", type=int, help="only this seed of the profile")
    parser.add_argument("--base", metavar="NAME", help="only this base model of the profile, by its folder's name")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N examples of each kind, in a separate folder")
    parser.add_argument("--device", help="auto, cpu, mps, cuda or cuda:INDEX instead of the profile's")
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes instead of the profile's")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="make the runs on the workers of this Dask scheduler, "
                                                               "tcp://host:port, which see the same folders")
    parser.add_argument("--home", type=Path, metavar="DIR", help="write results below DIR/runs instead of the checkout")


def _chosen(parsed: argparse.Namespace) -> tuple[Profile, Options]:
    if parsed.home is not None:
        # by the environment, so that worker processes see it too
        os.environ[paths.HOME_VARIABLE] = str(parsed.home.expanduser().resolve())
    given = {"device": parsed.device, "workers": parsed.workers}
    profile = load_profile(parsed.profile, **{key: value for key, value in given.items() if value is not None})
    if parsed.limit is not None:
        profile = limited(profile, parsed.limit)
    return profile, Options(parsed.task, parsed.seed, parsed.base)


@contextmanager
def _leading(profile: Profile) -> Iterator[Profile | None]:
    """The profile for the block, in the process that goes through the study; None in those that only help it train.

    Where `torchrun` or `accelerate launch` started several processes, these train together, one run after the other,
    and there are no worker processes besides.
    """
    if "WORLD_SIZE" not in os.environ:
        yield profile  # without waiting for torch
        return
    from retrieval_heads.training.finetune import follow
    from retrieval_heads.training.processes import several, together

    with together(resolve_device(profile.device), follow) as leads:
        yield (profile.model_copy(update={"workers": 1}) if several() else profile) if leads else None


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """One line per run where there is no terminal; on a terminal the bars say the same, and lines only what failed."""
    logger = logging.getLogger("retrieval_heads")
    if logger.handlers:
        yield
        return
    handler, level = _BesideBars(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _BesideBars(logging.Handler):
    """Lines on standard error that do not run into a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
