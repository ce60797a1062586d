"""Where an answer stands in a passage, and the sentences around it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from retrieval_heads.data.layout import Span

_BREAK = re.compile(r"(?P<end>[.!?。！？]+[\"'”’)\]]*)\s+|\s*\n\s*\n\s*")
_LAST_WORD = re.compile(r"[\w.]*$")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_ABBREVIATIONS = frozenset(
    ("mr", "mrs", "ms", "dr", "st", "jr", "sr", "no", "vs", "gen", "col", "lt", "capt", "sgt", "prof", "rev", "hon",
     "gov", "sen", "rep", "mt", "ft", "inc", "ltd", "co", "corp", "bros", "approx", "ca", "cf", "ph.d", "jan", "feb",
     "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec")
)


def occurrences(text: str, phrase: str, whole_words: bool) -> list[Span]:
    """Every place of `phrase` in `text`, letter for letter, as whole words or anywhere (`5` in `2015`)."""
    pattern = re.escape(phrase)
    return [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)" if whole_words else pattern, text)]


def sentences(text: str) -> list[Span]:
    """Spans of the sentences, without the white space between them; an empty line ends a sentence, too.

    A rule of thumb: white space behind `.`, `!` or `?` ends a sentence unless a small letter follows, or the word
    before it is an initial (`G.`, `U.S.`, `c.`) or a common abbreviation.
    """
    spans, start = [], len(text) - len(text.lstrip())
    for match in _BREAK.finditer(text, start):
        following = text[match.end() : match.end() + 1]
        if match["end"] and (following.islower() or _abbreviated(text[max(start, match.start() - 20) : match.start()])):
            continue
        spans.append((start, match.end("end") if match["end"] else match.start()))
        start = match.end()
    spans.append((start, len(text.rstrip())))
    return [(first, last) for first, last in spans if first < last]


def _abbreviated(before: str) -> bool:
    word = _LAST_WORD.search(before)[0]
    return _INITIALS.fullmatch(word) is not None or word.lower() in _ABBREVIATIONS


def sentences_around(text: str, spans: Iterable[Span]) -> list[Span]:
    """For each span the sentence that holds it, or the stretch from the first to the last that it runs over."""
    bounds = sentences(text)
    found = []
    for start, end in spans:
        touched = [bound for bound in bounds if bound[0] < end and bound[1] > start]
        found.append((min(start, touched[0][0]), max(end, touched[-1][1])) if touched else (start, end))
    return merge(found)


def merge(spans: Iterable[Span]) -> list[Span]:
    """The spans in order of position, overlapping ones as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
