"""Checks of the pretrained study that its pages speak of and that no rule asks for, from the committed tables.

    python tools/pretrained_checks.py

The shortfall of C1 by seed and without each; the precision of C2 with all runs scaled to equal total strength;
the controls of C4 as they were drawn. No model is needed: the heads that were knocked out follow from the head scores.
Writes `results/pretrained/checks.csv` and its manifest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads import paths
from retrieval_heads.claims.arrays import flat, seed_means
from retrieval_heads.claims.pretrained.loading import NAMED, STRONGEST, SYNTHETIC, THETA_ALONE, probed, runs_by_example
from retrieval_heads.claims.pretrained.sampled import holm, resampled_means
from retrieval_heads.claims.pretrained.subsets import LEAST_PART
from retrieval_heads.claims.strengths import pair_values
from retrieval_heads.config import config_hash, load_profile
from retrieval_heads.errors import ResultError
from retrieval_heads.files import write_whole
from retrieval_heads.heads.select import groups_filled
from retrieval_heads.keys import study_grid
from retrieval_heads.manifest import Facts, sha256, write_manifest
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stages.gold_loss import CONTROLS
from retrieval_heads.stages.head_sets import RunHeads, fitting_kind, score_matrix
from retrieval_heads.stages.knockout import knockout_sets
from retrieval_heads.store import load_table
from retrieval_heads.tables import conform, to_csv

TASK, PROFILE = "mdqa", load_profile("pretrained")
read = partial(load_table, PROFILE.name)
GROUP_SIZE = 3  # query heads per key/value head of the model


def main() -> None:
    folder, start, table = paths.results_folder(PROFILE.name), time.monotonic(), checks()
    facts, content = Facts(time.monotonic() - start, "cpu", seeds=(0,)), to_csv(table)
    write_whole(folder / "checks.csv", content)
    write_manifest(folder / "checks.json", facts, table="checks", profile=PROFILE.name,
                   config_hash=config_hash(PROFILE), sha256=sha256(content), rows=len(table))


def checks() -> pd.DataFrame:
    """The table `checks`, with five digits as in the tables beside it."""
    rows = pd.DataFrame([*shortfall_rows(), *scaled_rows(), *control_rows()])
    ends = {name: [float(f"{end:.5g}") for end in rows[name]] for name in ("value", "low", "high")}
    rows = rows.assign(**ends).fillna({"set": "none", "k": 0, "seed": 0})
    return conform("checks", rows.astype({"k": int, "seed": int}))


def shortfall_rows() -> Iterator[dict[str, Any]]:
    """C1: by how much F1 of each named set is below that of `real`, by seed, and over the other seeds without one."""
    alone = read("base_answers").query("condition == @THETA_ALONE and task == @TASK")
    values = runs_by_example(read("answers"), TASK, ["score"], "answers", {THETA_ALONE: alone})
    n = values[REFERENCE].shape[1]
    for place in range(len(PROFILE.seeds)):
        # the variance of seeds is pooled over all sets, as in the rule, so all of them go without this seed
        means = resampled_means({name: one if name == THETA_ALONE else np.delete(one, place, axis=0)
                                 for name, one in values.items()})
        found = [means.of(lambda one, name=name: (one[REFERENCE] - one[name])[..., 0]) for name in NAMED]
        for name, mean, (p, _) in zip(NAMED, found, holm([one.p_zero() for one in found]), strict=True):
            row = {"condition": name, "seed": PROFILE.seeds[place], "n": n}
            yield {**row, "check": "shortfall", "value": (values[REFERENCE] - values[name])[place].mean()}
            yield {**row, "check": "shortfall_without", **{end: mean.cells()[end] for end in ("value", "low", "high")}}
            yield {**row, "check": "p_without", "value": p}


def scaled_rows() -> Iterator[dict[str, Any]]:
    """C2: precision of gained strength when the heads of every run have the same sum, and how far above its bound.

    A run that gains little is precise for that reason alone; when all have the same sum, it is not.
    """
    probes = probed(read("head_hits"), read("head_scores"), TASK)
    heads = flat(probes.gained_strengths())
    heads = heads / heads.sum(axis=-1, keepdims=True)
    precision = seed_means(pair_values(heads, heads[:, [probes.reference]])[1])
    above, n = precision - LEAST_PART * precision[probes.reference], sum(half.shape[2] for half in probes.halves)
    for name in (REFERENCE, *SYNTHETIC):
        for check, values in (("scaled_precision", precision), ("scaled_difference", above)):
            yield {"check": check, "condition": name, "value": values[probes.conditions.index(name)], "n": n}


def control_rows() -> Iterator[dict[str, Any]]:
    """C4: groups, scores and losses of the sets that were knocked out of the real runs, over the draws of each."""
    draws = drawn()
    strongest = draws[draws["set"] == STRONGEST].set_index(["k", "seed"])["groups_filled"]
    others = draws[draws["set"] != STRONGEST].join(strongest.rename("wanted"), on=["k", "seed"])
    others["check"] = np.where(others["groups_filled"] == others["wanted"], "rise_same_groups", "rise_other_groups")
    parts = [(check, place, part[check]) for place, part in draws.groupby(["set", "k", "seed"])
             for check in ("groups_filled", "heads_above_zero", "highest_score", "rise")]
    parts += [(check, ("controls", k, 0), part["rise"]) for (check, k), part in others.groupby(["check", "k"])]
    for check, (name, k, seed), of_draws in parts:
        yield {"check": check, "condition": REFERENCE, "set": name, "k": k, "seed": seed, "value": of_draws.mean(),
               "low": of_draws.min(), "high": of_draws.max(), "n": len(of_draws)}
    for (name, k, seed), part in others.groupby(["set", "k", "seed"]):
        yield {"check": "equal_draws", "condition": REFERENCE, "set": name, "k": k, "seed": seed,
               "value": part["heads"].duplicated().sum(), "n": len(part)}


def drawn() -> pd.DataFrame:
    """Every set of heads that was knocked out of a real run, drawn again as by the stage that did it."""
    scores, losses = fitting_kind(PROFILE, read("head_scores")), read("knockout_losses")
    found, settings = [], PROFILE.gold_loss
    for key in (key for key in study_grid(PROFILE, TASK) if key.condition == REFERENCE):
        own, lost = (one[(one[list(key.columns)] == pd.Series(key.columns)).all(axis=1)] for one in (scores, losses))
        heads = RunHeads(score_matrix(own), score_matrix(own, "mass"), PROFILE.detect.threshold)
        lost = lost.pivot(index=["set", "k", "draw"], columns="example", values="nll")
        for one in knockout_sets(heads, settings.k, settings.draws, f"{key.name}|gold_loss", GROUP_SIZE):
            name, of_set = CONTROLS.get(one.name, one.name), np.array([heads.scores[head] for head in one.heads])
            loss = lost.loc[(name, len(of_set), one.draw)]
            found.append({
                "set": name, "k": len(of_set), "seed": key.seed, "heads": one.heads, "losses": tuple(loss),
                "groups_filled": groups_filled(one.heads, GROUP_SIZE), "heads_above_zero": (of_set > 0).sum(),
                "highest_score": of_set.max(), "rise": (loss - lost.loc[("none", 0, 0)]).mean(),
            })
    draws = pd.DataFrame(found)
    # heads are not in the table of losses: that they are the same shows where two draws agree
    if (draws.duplicated(["seed", "k", "heads"]) != draws.duplicated(["seed", "k", "losses"])).any():
        raise ResultError("sets of equal heads are not those of equal losses", where="table knockout_losses",
                          remedy="The draws differ from those of the runs: see `stages.gold_loss`.")
    return draws


if __name__ == "__main__":
    main()
