"""What several verbs ask for: a profile, a part of its runs, and where to compute them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrieval_heads import paths
from retrieval_heads.config import limited, load_profile
from retrieval_heads.keys import Options
from retrieval_heads.settings import Profile


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The options that say what is run, and where."""
    parser.add_argument("--profile", required=True, help="smoke, quick, live, report, paper or the path of a YAML file")
    parser.add_argument("--task", help="only this task: mdqa, musique or summhay")
    parser.add_argument("--seed", type=int, help="only this seed of the profile")
    parser.add_argument("--base", metavar="NAME", help="only this base model of the profile, by its folder's name")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N examples of each kind, in an own folder")
    parser.add_argument("--device", help="auto, cpu, mps, cuda or cuda:INDEX instead of the profile's")
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes instead of the profile's")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="make the runs on the workers of this Dask scheduler, "
                                                               "tcp://host:port, which see the same folders")
    parser.add_argument("--home", type=Path, metavar="DIR", help="write results below DIR/runs instead of the checkout")


def chosen(parsed: argparse.Namespace) -> tuple[Profile, Options]:
    if parsed.home is not None:
        # by the environment, so that worker processes see it too
        os.environ[paths.HOME_VARIABLE] = str(parsed.home.expanduser().resolve())
    given = {"device": parsed.device, "workers": parsed.workers}
    profile = load_profile(parsed.profile, **{key: value for key, value in given.items() if value is not None})
    if parsed.limit is not None:
        profile = limited(profile, parsed.limit)
    return profile, Options(parsed.task, parsed.seed, parsed.base)


@contextmanager
def leading(profile: Profile) -> Iterator[Profile | None]:
    """The profile for the block, in the process that is to go through the study; None in those that only help it train.

    Where `torchrun` or `accelerate launch` started several processes, these train together, one run after the other,
    and there are no worker processes besides.
    """
    if "WORLD_SIZE" not in os.environ:
        yield profile  # without waiting for torch
        return
    from retrieval_heads.executor import resolve_device
    from retrieval_heads.training.finetune import follow
    from retrieval_heads.training.processes import several, together

    with together(resolve_device(profile.device), follow) as leads:
        yield (profile.model_copy(update={"workers": 1}) if several() else profile) if leads else None


@contextmanager
def log_to_stderr() -> Iterator[None]:
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
