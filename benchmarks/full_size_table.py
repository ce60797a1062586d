"""The tables of full_size.py: medians, ratios within a round, the floor, and which targets are met."""

from __future__ import annotations

import argparse
import csv
import io
import math
from pathlib import Path
from statistics import median
from typing import Any

from retrieval_heads.files import write_whole

QUESTION = 32
"""Tokens of a question; the answer's are those of its needle."""


def floor_seconds(options: argparse.Namespace) -> dict[str, float]:
    """Least seconds of each of the five, see full_size.py; logits count where they are needed."""
    o, size = options, 2 if options.dtype == "bfloat16" else 4
    head_dim = o.hidden // o.heads
    keys = 2 * o.hidden * o.kv_heads * head_dim  # and values
    layer = 2 * o.hidden**2 + keys + 3 * o.hidden * o.intermediate

    def a_pass(n: int, before: int, n_logits: int = 1, own: int | None = None, read: bool = False) -> float:
        """Over n tokens after so many in the cache, of which each sees those of its own suffix before it.

        Where attention is only read, the last layer's keys and values are the last that is needed.
        """
        layers, seen = o.layers - read, n * before + n * (own or n) / 2
        weights, vocabulary = layers * layer + read * keys, 0 if read else o.hidden * o.vocab
        flops = 2 * weights * n + 4 * seen * o.hidden * layers + 2 * vocabulary * n_logits
        bytes_read = size * (weights + vocabulary + 2 * before * o.kv_heads * head_dim * layers)
        return max(flops / o.tflops, bytes_read / o.tbytes) / 1e12

    suffix, rows = QUESTION + o.answer + 1, o.answer + 1
    haystack = o.tokens - suffix
    return {
        "plain": a_pass(o.tokens, 0), "detection": a_pass(o.tokens, 0, read=True),
        "wu": a_pass(o.tokens - rows - 1, 0) + o.answer * a_pass(1, o.tokens - rows),
        "detection_many": a_pass(haystack, 0, read=True) + a_pass(o.questions * suffix, haystack, 1, suffix, True),
        "knockout": a_pass(o.tokens - rows - 1, 0) + a_pass(o.sets * rows, o.tokens - rows, o.sets * rows, rows),
    }


def summary(passes: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row each, over the counted rounds; ratios are medians of those within a round."""
    floors, rows = floor_seconds(options), []
    by = {what: {one["round"]: one for one in passes if one["what"] == what} for what in floors}
    for what, own in by.items():
        n_questions = options.questions if what == "detection_many" else 1

        def ratio(other: str, key: str = "seconds", own: dict = own) -> float:
            both = [one[key] / by[other][turn][key] for turn, one in own.items() if turn in by[other]]
            return median(both or [math.nan])

        if own:
            seconds, tokens = (median(one[key] for one in own.values()) for key in ("seconds", "tokens_run"))
            rows.append({
                "what": what, "seconds": seconds, "peak_gb": median(one["peak_gb"] for one in own.values()),
                "repeats": len(own), "questions": n_questions, "seconds_per_question": seconds / n_questions,
                "to_plain": ratio("plain"), "peak_to_plain": ratio("plain", "peak_gb"),
                "faster_than_wu": n_questions / ratio("wu"), "sequences": tokens / options.tokens,
                "floor_seconds": floors[what], "share": floors[what] / seconds,
            })
    return rows


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = {row["what"]: row for row in rows}
    wanted = (
        ("detection, time of a plain pass", "detection", "to_plain", 1.02, "at most"),
        ("detection, memory of a plain pass", "detection", "peak_to_plain", 1.03, "at most"),
        ("detection, one question, times faster than Wu et al.", "detection", "faster_than_wu", 2.8, "at least"),
        ("detection, many questions, each so many times faster", "detection_many", "faster_than_wu", 25, "at least"),
        ("head sets knocked out, time of a plain pass", "knockout", "to_plain", 2, "at most"),
        ("head sets knocked out, tokens of a plain pass", "knockout", "sequences", 2, "at most"),
    )
    return [
        {"target": name, "limit": f"{sense} {limit}", "reached": found[what][key],
         "met": found[what][key] <= limit if sense == "at most" else found[what][key] >= limit}
        for name, what, key, limit, sense in wanted if what in found and not math.isnan(found[what][key])
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_whole(path, text.getvalue().encode())
