"""The command line: `python -m retrieval_heads VERB ...`, one function a verb.

torch is imported by the stages and not here, so that `--help` and a mistyped setting answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from retrieval_heads import paths
from retrieval_heads.config import config_hash, limited, load_profile
from retrieval_heads.errors import StudyError
from retrieval_heads.executor import kept_workers
from retrieval_heads.keys import study_grid
from retrieval_heads.settings import Profile

STAGES = {
    "base": "score the base model before extension",
    "data": "make the examples and their statistics",
    "finetune": "fine-tune an adapter for each task, condition and seed, and score it",
    "lengths": "score some runs at other lengths",
    "detect": "score every head of every run",
    "knockout": "knock out retrieval heads and random ones",
    "patch": "patch heads of the real run into the synthetic runs",
    "correlate": "overlap of heads, and its correlation with performance",
    "claims": "decide the claims by the rules of the preregistration",
}
"""In the order in which they build on each other; each is `retrieval_heads.stages.NAME.run(profile, options)`."""


@dataclass(frozen=True)
class Options:
    """What the command line asks of a stage, beside the profile.

    Attributes:
        task: only the runs of this task.
        seed: only the runs of this seed.
        base: only the runs from the base model of this folder name.
    """

    task: str | None = None
    seed: int | None = None
    base: str | None = None


EXAMPLES = """\
examples:
  python -m retrieval_heads run all --profile smoke
      every stage on very little data, in seconds
  python -m retrieval_heads run finetune --profile report --device cuda --workers 4
      fine-tune all runs of the report on one GPU; give the same command again to go on after an interruption
  python -m retrieval_heads run detect --profile quick --task mdqa --limit 4
      try one task on four examples; the results go to runs/quick-limit4
  python -m retrieval_heads run all --profile report --dry-run
      list what would be run, and run nothing
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 2 for a problem that the user can mend, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m retrieval_heads", description="Synthetic context extension, explained by retrieval heads.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add in VERBS:
        add(verbs)
    parsed = parser.parse_args(arguments)
    try:
        parsed.function(parsed)
    except StudyError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: give the same command again to go on", file=sys.stderr)
        return 130
    return 0


def run_stage(name: str, profile: Profile, options: Options) -> list[Path]:
    """Run one stage and say on standard output what it made, on one line; returns the paths of its tables."""
    start = time.perf_counter()
    made = importlib.import_module(f"retrieval_heads.stages.{name}").run(profile, options)
    tables = ", ".join(paths.shown(Path(path)) for path in made)
    print(f"{name}: {tables or 'nothing to make'} ({time.perf_counter() - start:.1f} s)", flush=True)
    return made


def _add_run(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "run", help="run one stage of the study, or all", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Stages:\n" + "\n".join(f"  {name:10} {what}" for name, what in STAGES.items())
                    + "\n  all        every stage in this order",
    )
    parser.add_argument("stage", choices=[*STAGES, "all"], metavar="STAGE", help=f"{', '.join(STAGES)} or all")
    _add_choice(parser)
    parser.add_argument("--dry-run", action="store_true", help="list the stages and runs, and run nothing")
    parser.set_defaults(function=_run)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """The options that say what is run, and where."""
    parser.add_argument("--profile", required=True, help="smoke, quick, live, report, paper or the path of a YAML file")
    parser.add_argument("--task", help="only this task: mdqa, musique or summhay")
    parser.add_argument("--seed", type=int, help="only this seed of the profile")
    parser.add_argument("--base", metavar="NAME", help="only this base model of the profile, by its folder's name")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N examples of each kind, in an own folder")
    parser.add_argument("--device", help="auto, cpu, mps, cuda or cuda:INDEX instead of the profile's")
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes instead of the profile's")
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


def _run(parsed: argparse.Namespace) -> None:
    profile, options = _chosen(parsed)
    grid = study_grid(profile, options.task, options.seed, options.base)
    stages = list(STAGES) if parsed.stage == "all" else [parsed.stage]
    if parsed.dry_run:
        print(f"profile {profile.name}, settings {config_hash(profile)}, results in "
              f"{paths.runs_folder(profile.name)}")
        print(f"stages: {', '.join(stages)}")
        print("\n".join(["runs:", *(f"  {key.name}" for key in grid)]))
        return
    with _log_to_stderr(), kept_workers(profile.workers, profile.threads):
        for stage in stages:
            run_stage(stage, profile, options)


def _add_grid(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "grid", help="all runs of a study, each through all stages at once: for GPUs and limited time",
        epilog="Several GPUs: one such command for each, with CUDA_VISIBLE_DEVICES and --base or --task.",
    )
    _add_choice(parser)
    parser.add_argument("--seconds", type=float, metavar="S", help="begin nothing after so many seconds")
    parser.set_defaults(function=_grid)


def _grid(parsed: argparse.Namespace) -> None:
    profile, options = _chosen(parsed)
    from retrieval_heads.stages import grid

    start = time.perf_counter()
    with _log_to_stderr():
        made = grid.run(profile, options, parsed.seconds)
    print(f"grid: {len(made)} tables ({time.perf_counter() - start:.1f} s)", flush=True)


def _add_publish(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("publish", help="merge what is there of a profile, decide the claims, and copy its "
                                "tables to results/, to be committed")
    parser.add_argument("--profile", required=True)
    parser.set_defaults(function=_publish)


def _publish(parsed: argparse.Namespace) -> None:
    from retrieval_heads.publish import publish
    from retrieval_heads.stages import claims, data, grid

    profile = load_profile(parsed.profile)
    grid.merge(profile)
    data.run(profile)
    claims.judge(profile)
    for path in publish(profile):
        print(paths.shown(path))


def _add_pretrain(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("pretrain", help="train the base model from scratch (about ten minutes on one H200)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; a tokenizer there is kept")
    parser.add_argument("--seconds", type=float, default=560.0, help="time limit of the training")
    parser.add_argument("--steps", type=int, default=5_000, help="optimizer steps, about as many as time allows")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW (embeddings, norms)")
    parser.add_argument("--muon-lr", type=float, default=3e-3, help="peak learning rate of Muon (matrices)")
    parser.add_argument("--decay", type=float, default=0.8, help="share of the training in which the rate falls")
    parser.add_argument("--batch", type=int, default=192, help="rows a step")
    parser.add_argument("--short", type=float, nargs=2, default=(0.9, 0.3), metavar=("FIRST", "LAST"),
                        help="share of rows with short scenes, at first and in the second half of the steps")
    parser.add_argument("--workers", type=int, default=15, help="processes that make text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", action="store_true", help="run the model as it is, for a short try on a CPU")
    parser.add_argument("--resume", action="store_true", help="start from the weights in --out, with new rows")
    parser.set_defaults(function=_pretrain)


def _pretrain(parsed: argparse.Namespace) -> None:
    from retrieval_heads.models.pretrain import PretrainSettings
    from retrieval_heads.models.train_base import train_base

    names = ("seconds", "steps", "lr", "muon_lr", "decay", "batch", "short", "workers", "seed")
    chosen = {name: getattr(parsed, name) for name in names}
    settings = PretrainSettings(**chosen, compile=not parsed.no_compile)
    train_base(parsed.out, settings, parsed.device, resume=parsed.resume)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """One line a run where there is no terminal; on a terminal the bars say the same."""
    logger = logging.getLogger("retrieval_heads")
    if sys.stderr.isatty() or logger.handlers:
        yield
        return
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


VERBS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (_add_run, _add_grid, _add_publish, _add_pretrain)
"""Each adds one verb to the parser, with the function that it runs."""
