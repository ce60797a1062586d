"""What the chapters on costs and on data of one's own found."""

from __future__ import annotations

import pandas as pd


def costs_takeaway(summary: pd.DataFrame, whole: pd.DataFrame) -> list[str]:
    """What reading all heads costs beside a plain pass, and what the study costs.

    Args:
        summary: the table `full_size` of the benchmarks.
        whole: the table `costs_full` of the benchmarks; its last row is the sum.
    """
    found = summary.set_index("what")
    one, many = found.loc["detection"], found.loc["detection_many"]
    return [
        f"Reading all heads of an 8B model at {summary.tokens.iloc[0]:,} tokens takes {one.to_plain:.3f} times the "
        f"time of a plain pass, and {one.peak_to_plain:.3f} times its memory.",
        f"It is {one.faster_than_wu:.1f} times faster than the procedure of Wu et al.; with "
        f"{many.questions:.0f} questions on one haystack, {many.faster_than_wu:.0f} times per question.",
        f"The whole study at this size takes about {whole.hours.iloc[-1]:,.0f} hours of one card.",
    ]
