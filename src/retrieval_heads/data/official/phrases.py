"""Which accepted answers can be looked for in a text, and how.

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
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_ARTICLE = re.compile(r"(?:the|a|an)\s+", re.IGNORECASE)
_SHORTENED = re.compile(r"['’](?:s|d|m|t|re|ve|ll)$")
_INITIALS = re.compile(r"[^\W\d_]\.?|(?:[A-Z]\.?){2,4}")

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


@lru_cache(maxsize=50_000)
def exact_pattern(answer: str) -> re.Pattern[str] | None:
    """What finds an answer that is found letter for letter only; None for any other."""
    core = _ARTICLE.sub("", answer.strip(), count=1) or answer.strip()
    if _INITIALS.fullmatch(core) and _searched(answer):
        letters = [letter for letter in core if letter != "."]
        return re.compile(r"(?<!\w)" + r"\.?".join(map(re.escape, letters)) + r"(?!\w)")
    if _of_function_words(answer) and _searched(answer):
        return re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, answer.split())) + r"(?!\w)")
    return None


def is_short(form: str) -> bool:
    """Whether a text consists of words of at most three letters."""
    words = form.split()
    return bool(words) and all(word.isalpha() and len(word) <= 3 for word in words)


def not_searched(groups: Iterable[Iterable[str]]) -> dict[str, int]:
    """How many of some groups of accepted answers have each answer that is not looked for, the most frequent first."""
    found = Counter(answer for answers in groups for answer in dict.fromkeys(answers) if not _searched(answer))
    return dict(found.most_common())


def searched(answers: Iterable[str]) -> tuple[str, ...]:
    """Those of the answers that could be an answer's text, in their order."""
    return tuple(answer for answer in answers if _searched(answer))


def _searched(answer: str) -> bool:
    return not _of_function_words(answer) or sum(letter.isupper() for letter in answer) > 1


def _of_function_words(answer: str) -> bool:
    words = _WORD.findall(answer.replace(".", "") if _INITIALS.fullmatch(answer.strip()) else answer)
    return bool(words) and all(_SHORTENED.sub("", word.casefold()) in FUNCTION_WORDS for word in words)
