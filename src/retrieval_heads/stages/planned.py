"""What is left of a study, and what that costs by what was measured before: said without running anything."""

from __future__ import annotations

import pandas as pd

from retrieval_heads import paths
from retrieval_heads.errors import StudyError
from retrieval_heads.keys import Options, study_grid
from retrieval_heads.manifest import read_manifest
from retrieval_heads.settings import Profile
from retrieval_heads.stages import grid
from retrieval_heads.stages.common import EVERYTHING
from retrieval_heads.store import Store, find_committed, load_table

PILOT, BENCHMARK = "pilot", "pretrained.csv"


def plan(profile: Profile, options: Options = EVERYTHING) -> list[str]:
    """Lines that say how many runs and steps there are, how many are left here, and what was measured of their cost.

    Args:
        profile: of the study.
        options: a part of its runs.
    """
    runs = study_grid(profile, options.task, options.seed, options.base)
    keys, store = [*grid.base_keys(profile, options), *runs], Store.open(profile)
    left = {key: grid.unfinished(store, key) for key in keys}
    trained = [key for key in runs if grid.FINETUNE in left[key]]
    lines = [
        f"{len(runs)} runs: {_count(runs, 'task')} x {_count(runs, 'condition')} x {_count(runs, 'seed')} x "
        f"{_count(runs, 'base')}; {len(keys) - len(runs)} measurements of untrained models",
        f"left here: {len(trained)} to be trained, {sum(map(len, left.values()))} steps in all (steps are training "
        "with test, detection, knock-out, patching, other lengths)",
    ]
    return lines + measured(profile, len(trained))


def measured(profile: Profile, n_runs: int) -> list[str]:
    """What training and scoring took in the pilot of the profile, and the benchmark's floor; where known.

    Args:
        profile: whose pilot.
        n_runs: runs that are to be trained.
    """
    if find_committed(profile.name, PILOT) is None:
        return ["no cost was measured for this profile: `python -m retrieval_heads costs` tries it"]
    rows = load_table(profile.name, PILOT)
    rows = rows[(rows.accumulation == profile.lora.accumulation) & (rows.lr == profile.lora.lr)
                & (rows.task == profile.tasks[0])]
    if rows.empty:
        return ["the pilot did not try these settings of the fine-tuning"]
    row, sequences = rows.iloc[0], profile.n_train * profile.lora.epochs
    scoring = row.score_seconds * profile.n_test / row.n
    each, made = row.train_seconds + scoring, read_manifest(paths.results_folder(profile.name) / f"{PILOT}.json")
    device = made["device"] if made else "device that is not recorded"
    return [
        f"training: {row.train_seconds:.0f} s per run in the pilot, alone on one {device} "
        f"({1000 * row.train_seconds / sequences:.0f} ms a sequence of {profile.train_length:,} tokens)",
        f"scoring: {scoring:.0f} s per run for {profile.n_test} test examples ({row.score_seconds:.0f} s for {row.n})",
        f"together {n_runs} x {each:.0f} s = {n_runs * each / 3600:.1f} hours, without detection, knock-out and "
        "patching, which the pilot did not time",
        *_benchmark(),
    ]


def _benchmark() -> list[str]:
    """The rows of the benchmark of this study: time beside the floor."""
    path = paths.results_folder("benchmarks") / BENCHMARK
    if not path.is_file():
        return ["floor: not measured yet (`python benchmarks/pretrained.py --help`)"]
    rows = pd.read_csv(path)
    if rows.empty:
        raise StudyError("the table has no rows", where=paths.shown(path), remedy="Make it again.")
    return ["benchmark (seconds, and the least that each can take):", *rows.to_string(index=False).splitlines()]


def _count(runs: list, name: str) -> str:
    n = len({getattr(key, name) for key in runs})
    return f"{n} {name}{'' if n == 1 else 's'}"
