"""The analysis on permuted labels: its table, its page, and that it can be made again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import false_positives  # noqa: E402

TABLE = pd.read_csv(ROOT / "results/benchmarks/false_positives.csv")
PAGE = (ROOT / "book/preregistration_pretrained.md").read_text(encoding="utf-8")


def test_the_page_gives_the_numbers_of_the_table() -> None:
    rows = re.findall(r"^\| (C\d) \| (\w+) \| ([^|]+) \| (\d+) of (\d+) \|", PAGE.replace("`", ""), re.MULTILINE)
    assert len(rows) == len(TABLE)
    given = {
        (claim, data, finding.strip()): (int(count), int(possible)) for claim, data, finding, count, possible in rows
    }
    assert given == {(row.claim, row.data, row.finding): (row.count_, row.possible)
                     for row in TABLE.rename(columns={"count": "count_"}).itertuples()}


def test_no_verdict_is_found_more_often_than_one_time_in_twenty_where_it_is_false() -> None:
    verdicts = TABLE[TABLE["finding"].str.match(r"C\d ")]
    assert set(verdicts["claim"]) == {"C1", "C2", "C3", "C4", "C5"}
    assert (verdicts["rate"] <= 0.05).all()


@pytest.mark.parametrize("claim", ["C3", "C5"])
def test_it_can_be_made_again(claim) -> None:
    rows = pd.DataFrame(false_positives.rates(0.004, claim))
    known = TABLE[TABLE["claim"] == claim]
    assert list(rows["finding"]) == list(known["finding"])
    assert (rows["count"] <= rows["possible"]).all()
