"""Simulated tables of a study in which it is known what heads the runs have and how they perform; the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

SYNTHETIC = ("high_high", "high_mid", "high_low", "mid_high", "mid_mid", "mid_low", "low_high", "low_mid", "low_low",
             "symbolic")
MIXTURES = ("real_limited-high_high", "real_limited-low_low", "high_high-symbolic")
CONDITIONS = ("real", "real_limited", *SYNTHETIC, *MIXTURES)
TASKS, BASES, SEEDS = ("mdqa", "musique", "summhay"), ("base", "base-1"), (1, 2, 3, 4, 5)
LAYERS, WIDTH = 12, 16


def verdict(table: Callable[[str], pd.DataFrame], claim: str, task: str = "all") -> pd.Series:
    """The row of the table `verdicts` of the report; `table` is the fixture."""
    rows = table("verdicts")
    return rows[(rows.claim == claim) & (rows.task == task)].iloc[0]


def heads_of(rng: np.random.Generator, n: int, among: np.ndarray) -> np.ndarray:
    """bool `[LAYERS, WIDTH]`, n heads drawn among the given ones."""
    mask = np.zeros(among.size, dtype=bool)
    mask[rng.choice(np.flatnonzero(among), n, replace=False)] = True
    return mask.reshape(among.shape)


def head_scores(
    rng: np.random.Generator, masks: Mapping[tuple[str, str, str, int], np.ndarray], *, noise: float = 0.01,
    strong: float = 0.5,
) -> pd.DataFrame:
    """The table `head_scores` of runs (task, condition, base, seed) with these heads, and weak ones elsewhere."""
    rows = []
    layer, head = (one.ravel() for one in np.indices((LAYERS, WIDTH)))
    for (task, condition, base, seed), mask in masks.items():
        one = pd.DataFrame({"layer": layer, "head": head})
        level = strong * mask.ravel() + 0.03
        for name in ("score", "mass", "query_mass", "contribution", "score_even", "score_odd", "score_few"):
            one[name] = np.clip(level + noise * rng.normal(size=level.size), 0, 1)
        rows.append(one.assign(task=task, condition=condition, base=base, seed=seed,
                               kind="insight" if task == "summhay" else "copy"))
    return pd.concat(rows, ignore_index=True).assign(score_mode="forced", chance=0.02, n_used=64)


def planted(
    rng: np.random.Generator, shares: Mapping[str, float], *, n_real: int = 20, n_base: int = 4, outside: float = 0.0,
    keep: float = 1.0, tasks: Sequence[str] = TASKS, seeds: Sequence[int] = SEEDS, bases: Sequence[str] = BASES,
) -> dict[tuple[str, str, str, int], np.ndarray]:
    """Heads of runs: `n_base` of the base model; real runs have `n_real` more; others a share of these.

    Args:
        shares: for each condition, which share of the real runs' gained heads it has.
        outside: which share of its gained heads, as many again, lies elsewhere.
        keep: share of the base model's heads that every run keeps.
    """
    every, masks = np.ones((LAYERS, WIDTH), dtype=bool), {}
    for task in tasks:
        for base in bases:
            of_base = heads_of(rng, n_base, every)
            gained = heads_of(rng, n_real, ~of_base)
            masks[task, "base", base, 0] = masks[task, "rope", base, 0] = of_base
            for condition, share in shares.items():
                for seed in seeds:
                    own = heads_of(rng, round(share * n_real), gained)
                    other = heads_of(rng, round(outside * n_real) if condition != "real" else 0, ~(of_base | gained))
                    masks[task, condition, base, seed] = own | other | heads_of(rng, round(keep * n_base), of_base)
    return masks


def other_tables(
    rng: np.random.Generator, performance: Mapping[tuple[str, str, str, int], float], *, n: int = 10,
) -> dict[str, pd.DataFrame]:
    """The tables `answers`, `training`, `probe_loss` and `examples` of runs with this performance; losses are noise."""
    runs = pd.DataFrame(list(performance), columns=["task", "condition", "base", "seed"])
    value = np.array(list(performance.values()))
    answers = pd.concat([runs.assign(example=i, exact_match=value, score=value) for i in range(n)])
    examples = runs[["task", "condition"]].drop_duplicates().assign(split="train", length=2048)
    return {
        "answers": answers, "training": runs.assign(final_loss=rng.random(len(runs))),
        "probe_loss": runs.assign(loss=rng.random(len(runs)), n=64),
        "examples": examples.assign(ngram_overlap=rng.random(len(examples))),
    }


def runs_table(
    rng: np.random.Generator, level: Mapping[tuple[str, str], float], columns: Sequence[str], *, noise: float = 0.0,
    bases: Sequence[str] = BASES, seeds: Sequence[int] = SEEDS,
) -> pd.DataFrame:
    """A table of runs whose performance is the level of its task and condition; the columns are noise."""
    rows = pd.DataFrame([
        {"task": task, "condition": condition, "base": base, "seed": seed, "performance": value}
        for (task, condition), value in level.items() for base in bases for seed in seeds
    ])
    rows["performance"] += noise * rng.normal(size=len(rows))
    for name in columns:
        rows[name] = rng.random(len(rows))
    return rows
