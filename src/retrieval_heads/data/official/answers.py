"""Accepted answers in texts: which can be looked for, where they stand, and whether a document holds one.

Files of accepted answers hold words that nearly every text has: `it`, `a`, `the`, or `IT` and `US` whatever the case.
Taken as they are they would forbid nearly every document, and be found as needles where nothing is answered. So

- function words alone (`it`, `It`, `the`) could not be an answer's text, and are not looked for;
- with more than one capital they could (`IT`, `The Who`), and are found letter for letter, in words of their own;
- so are the initials of up to four capitals (`US`, `U.S.`), with full stops or without, and single letters;
- words of up to three letters (`ten`, `at t` for `AT&T`) are found as words of their own, in any spelling of capitals;
- all others are found in any spelling of capitals, and inside longer words too.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from retrieval_heads.data.prompt_format import Span
from retrieval_heads.data.task import normalize_answer

FUNCTION_WORDS = frozenset(re.findall(r"\w+", """
    a an the this that these those such some any none not all both each every either neither other another same
    i me my mine myself we us our ours ourselves you your yours yourself he him his himself she her hers herself
    it its itself they them their theirs themselves who whom whose which what when where why how
    and or but nor so yet if then than because as while although though since unless until whether
    of in on at by to from with without for about into onto over under up down out off above below between among
    through during before after against within across behind along around near per via
    is are was were be been being am do does did done has have had having will would shall should can could may might
    must there here now just only also too very more most less least much many few own again once ever never always
"""))
_ABBREVIATIONS = frozenset(
    ("mr", "mrs", "ms", "dr", "st", "jr", "sr", "no", "vs", "gen", "col", "lt", "capt", "sgt", "prof", "rev", "hon",
     "gov", "sen", "rep", "mt", "ft", "inc", "ltd", "co", "corp", "bros", "approx", "ca", "cf", "ph.d", "jan", "feb",
     "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec")
)
_BREAK = re.compile(r"(?P<end>[.!?。！？]+[\"'”’)\]]*)\s+|\s*\n\s*\n\s*")
_LAST_WORD = re.compile(r"[\w.]*$")
_INITIAL = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_ARTICLE = re.compile(r"(?:the|a|an)\s+", re.IGNORECASE)
_SHORTENED = re.compile(r"['’](?:s|d|m|t|re|ve|ll)$")
_CAPITALS = re.compile(r"[^\W\d_]\.?|(?:[A-Z]\.?){2,4}")
_GAP = re.compile(r"[\W_]+")


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
    return _INITIAL.fullmatch(word) is not None or word.lower() in _ABBREVIATIONS


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


@dataclass(frozen=True)
class Held:
    """An answer that some texts hold letter for letter: by text its needles, and whether it stands there in words of
    its own or only inside longer ones (`5` in `2015`)."""

    answer: str
    needles: dict[int, list[Span]]
    whole_words: bool


def find_answer(texts: Mapping[int, str], answers: Sequence[str], needle: str) -> Held | None:
    """The first of `answers` that one of the texts holds, preferably in words of its own; None when there is none.

    Looked for are only those that could be an answer's text (`searched`), unless there is none. A text's needles are
    every place of the answer (`answer`), the sentences around them (`sentence`), or the whole text (`passage`).
    """
    for whole_words in (True, False):
        for answer in searched(answers) or answers:
            places = {index: occurrences(text, answer, whole_words) for index, text in texts.items()}
            held = {index: _widened(texts[index], spans, needle) for index, spans in places.items() if spans}
            if held:
                return Held(answer, held, whole_words)
    return None


def _widened(text: str, places: list[Span], needle: str) -> list[Span]:
    if needle == "answer":
        return places
    return sentences_around(text, places) if needle == "sentence" else [(0, len(text))]


def searched(answers: Iterable[str]) -> tuple[str, ...]:
    """Those of the answers that could be an answer's text, in their order."""
    return tuple(answer for answer in answers if _searched(answer))


def not_searched(groups: Iterable[Iterable[str]]) -> dict[str, int]:
    """How many of some groups of accepted answers have each answer that is not looked for, the most frequent first."""
    found = Counter(answer for answers in groups for answer in dict.fromkeys(answers) if not _searched(answer))
    return dict(found.most_common())


def _searched(answer: str) -> bool:
    return not _of_function_words(answer) or sum(letter.isupper() for letter in answer) > 1


def _of_function_words(answer: str) -> bool:
    words = _WORD.findall(answer.replace(".", "") if _CAPITALS.fullmatch(answer.strip()) else answer)
    return bool(words) and all(_SHORTENED.sub("", word.casefold()) in FUNCTION_WORDS for word in words)


@lru_cache(maxsize=50_000)
def exact_pattern(answer: str) -> re.Pattern[str] | None:
    """What finds an answer that is found letter for letter only; None for any other."""
    core = _ARTICLE.sub("", answer.strip(), count=1) or answer.strip()
    if _CAPITALS.fullmatch(core) and _searched(answer):
        letters = [letter for letter in core if letter != "."]
        return re.compile(r"(?<!\w)" + r"\.?".join(map(re.escape, letters)) + r"(?!\w)")
    if _of_function_words(answer) and _searched(answer):
        return re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, answer.split())) + r"(?!\w)")
    return None


class Forbidden:
    """The accepted answers that no added document may hold; none forbids nothing.

    The check is on the strict side, since a document that holds the answer by chance is a second, unmarked needle. An
    answer is held when one of these is part of the document, inside longer words too (`5` in `2015`): the answer as it
    is, whatever the case; its SQuAD form (`task.normalize_answer`), without accents, in that of the document; its
    words with single spaces for whatever stands between them (`well-known` as `well known`), likewise.
    """

    def __init__(self, answers: Iterable[str]) -> None:
        exact = {answer: exact_pattern(answer) for answer in searched(answers)}
        self._patterns = tuple(pattern for pattern in exact.values() if pattern is not None)
        forms = [_forms(answer.strip()) for answer, pattern in exact.items() if pattern is None]
        # an answer of punctuation alone has no normal form, and an empty one would be in everything
        wanted = [{form[i].strip() for form in forms} - {""} for i in range(3)]
        self._wanted = tuple(tuple(want for want in some if not _is_short(want)) for some in wanted)
        # the words alone; those of the text as it is are among them
        self._short = tuple(f" {want} " for some in wanted[1:] for want in some if _is_short(want) and searched([want]))

    def held_by(self, title: str, text: str) -> bool:
        """Whether the document, its title included, holds one of the answers."""
        forms = _document_forms(title, text)
        if any(want in form for form, wanted in zip(forms, self._wanted, strict=True) for want in wanted):
            return True
        if any(want in f" {form} " for form in forms[1:] for want in self._short):
            return True
        return any(pattern.search(part) for pattern in self._patterns for part in (title, text))


def _is_short(form: str) -> bool:
    words = form.split()
    return bool(words) and all(word.isalpha() and len(word) <= 3 for word in words)


def _forms(text: str) -> tuple[str, str, str]:
    """A text in the three forms that are compared: case folded, SQuAD's, and its words alone."""
    plain = text
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    return text.casefold(), normalize_answer(plain), " ".join(_GAP.split(plain.casefold()))


@lru_cache(maxsize=50_000)
def _document_forms(title: str, text: str) -> tuple[str, str, str]:
    return _forms(f"{title}\n{text}")
