"""A diagnosis that is killed again and again ends with the bytes of one that was left alone."""

from __future__ import annotations

import random
from pathlib import Path

from forked import exit_code, files, kill_in_the_middle, start
from small_sets import diagnose_line, write_sets

KILLS = 5


def test_a_diagnosis_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    write_sets(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert exit_code(start(diagnose_line(tmp_path, whole))) == 0
    made = sorted(files(whole))
    rng, hit = random.Random(0), 0
    for kill in range(KILLS):
        moment = rng.randint(1 + kill * len(made) // KILLS, (kill + 1) * len(made) // KILLS - 1)
        hit += kill_in_the_middle(diagnose_line(tmp_path, killed), killed, moment, rng.uniform(0, 0.15))
    assert hit >= KILLS - 1
    assert exit_code(start(diagnose_line(tmp_path, killed))) == 0
    assert sorted(files(killed)) == made
    assert {path.name for path in made} >= {"report.html", "patching.csv", "summary.csv"}
    for path in made:
        if path.name != "timing.json":
            assert (killed / path).read_bytes() == (whole / path).read_bytes(), path
