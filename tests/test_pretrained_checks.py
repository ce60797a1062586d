"""The checks beside the pretrained study follow from its committed tables, and its pages say what they show."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest

from retrieval_heads import paths
from retrieval_heads.data.official.sources import official_files, read_sources, without_repeats
from retrieval_heads.data.official.split import gold_keys
from retrieval_heads.store import load_table
from tools.pretrained_checks import checks


def page(name: str) -> str:
    return " ".join((paths.checkout() / "book" / name).read_text(encoding="utf-8").split())


def short(value: float) -> str:
    """Two digits after the point, without the zero before it."""
    return f"{abs(value):.2f}".lstrip("0")


def test_the_table_of_checks_is_what_the_tool_makes_and_what_the_pages_say() -> None:
    table = load_table("pretrained", "checks")
    pd.testing.assert_frame_equal(checks(), table, rtol=1e-4)  # its five digits may be rounded otherwise elsewhere
    value = table.set_index(["check", "condition", "set", "k", "seed"])["value"].sort_index()
    limits, rules = page("limitations.md"), page("preregistration_pretrained.md")
    one, two, three = value["shortfall", "high_high", "none", 0]
    assert f"fall short by {short(one)}, {short(two)} and {short(three)}" in limits
    assert "(p about {}; without another one it stays open, {} and {})".format(
        *map(short, value["p_without", "high_high", "none", 0])) in limits
    whole = load_table("pretrained", "set_correlation").query("predictor == 'recall' and sets == 'whole'")
    row = whole[whole["given"].isna()].iloc[0]
    assert f"correlation ({short(row['value'])}) is not beyond chance (p = {row['p']:.3f})".replace("0.", ".") in limits
    pilot = load_table("pretrained", "pilot").query("task == 'musique' and metric == 'f1'")
    f1 = pilot.set_index("setting")["value"]
    gain = f"{f1['150 steps'] - f1['theta alone']:.3f}".lstrip("0")
    assert f"added {gain} to F1, of the .05 asked for" in limits
    assert f"the gain is {gain}; the gate is .05" in rules
    below = value["scaled_difference"].loc[lambda difference: difference < 0]
    assert [condition for condition, *_ in below.index] == ["symbolic"]
    assert set(value["groups_filled", "real", "random_group", 7]) == {5}
    assert set(value["groups_filled", "real", "retrieval", 14]) == {9}
    rises = (value[f"rise_{which}_groups", "real", "controls", 14, 0] for which in ("same", "other"))
    strongest = value["rise", "real", "retrieval", 14].mean()
    assert "({} nats against {}, and {:.2f} for the".format(*map(short, rises), strongest) in rules
    assert all("`results/pretrained/checks.csv`" in text for text in (limits, rules))


def test_the_questions_of_musique_are_counted_as_the_rules_say() -> None:
    if (folder := os.environ.get("RETRIEVAL_HEADS_DATA")) is None:
        pytest.skip("the folder of official files is not named by RETRIEVAL_HEADS_DATA")
    records = {one.id: one for one in without_repeats(read_sources("musique", official_files(folder, "musique")))}
    sets = json.loads((paths.checkout() / "data/written/records_musique.json").read_text(encoding="utf-8"))
    golds = {name: gold_keys([records[one] for one in ids]) for name, ids in sets.items()}
    others = set().union(*(ids for name, ids in sets.items() if name != "limited"))
    shared = sum(bool(gold_keys([records[one]]) & golds["test"]) for one in sets["dev"])
    rules = page("preregistration_pretrained.md")
    assert f"The official records at hand hold {len(records)} questions. {len(sets['train'])} are the training" in rules
    only, none = len({*sets["limited"]} - others), len(records.keys() - others - {*sets["limited"]})
    assert f"{only} more are in `real_limited`, and {none} in no set" in rules
    assert f"{shared} of the {len(sets['dev'])} questions of the development split share a gold document" in rules
    assert not (golds["dev"] | golds["probe"] | golds["test"]) & (golds["train"] | golds["limited"])
