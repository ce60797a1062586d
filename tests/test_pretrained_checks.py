"""The checks beside the pretrained study follow from its committed tables, and its pages say what they show."""

from __future__ import annotations

import pandas as pd

from retrieval_heads import paths
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
    below = value["scaled_difference"].loc[lambda difference: difference < 0]
    assert [condition for condition, *_ in below.index] == ["symbolic"]
    assert set(value["groups_filled", "real", "random_group", 7]) == {5}
    assert set(value["groups_filled", "real", "retrieval", 14]) == {9}
    rises = (value[f"rise_{which}_groups", "real", "controls", 14, 0] for which in ("same", "other"))
    strongest = value["rise", "real", "retrieval", 14].mean()
    assert "({} nats against {}, and {:.2f} for the".format(*map(short, rises), strongest) in rules
    assert all("`results/pretrained/checks.csv`" in text for text in (limits, rules))
