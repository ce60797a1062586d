"""Whether a document holds an answer: the check by which haystack documents are refused.

It is on the strict side, since a document that holds the answer by chance is a second, unmarked needle. An answer is
held when one of these is part of the document, inside longer words too (`5` in `2015`):

- the answer as it is, whatever the case;
- its SQuAD form (`task.normalize_answer`), without accents, in that of the document;
- its words with single spaces for whatever stands between them (`well-known` as `well known`), likewise.

Answers of which this would find one in nearly every document are looked for letter for letter, or not at all; see
`phrases`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from retrieval_heads.data.official.phrases import exact_pattern, is_short, searched
from retrieval_heads.data.task import normalize_answer

_GAP = re.compile(r"[\W_]+")


def normal_forms(text: str) -> tuple[str, str, str]:
    """A text in the three forms that are compared: case folded, SQuAD's, and its words alone."""
    plain = text
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    return text.casefold(), normalize_answer(plain), " ".join(_GAP.split(plain.casefold()))


class Forbidden:
    """The answers that no added document may hold.

    Args:
        answers: all accepted ones, in any writing; none forbids nothing.
    """

    def __init__(self, answers: Iterable[str]) -> None:
        exact = {answer: exact_pattern(answer) for answer in searched(answers)}
        self._patterns = tuple(pattern for pattern in exact.values() if pattern is not None)
        forms = [normal_forms(answer.strip()) for answer, pattern in exact.items() if pattern is None]
        # an answer of punctuation alone has no normal form, and an empty one would be in everything
        wanted = [{form[i].strip() for form in forms} - {""} for i in range(3)]
        self._wanted = tuple(tuple(want for want in some if not is_short(want)) for some in wanted)
        # the words alone; those of the text as it is are among them
        self._short = tuple(f" {want} " for some in wanted[1:] for want in some if is_short(want) and searched([want]))

    def held_by(self, title: str, text: str) -> bool:
        """Whether the document, its title included, holds one of the answers."""
        forms = _document_forms(title, text)
        if any(want in form for form, wanted in zip(forms, self._wanted, strict=True) for want in wanted):
            return True
        if any(want in f" {form} " for form in forms[1:] for want in self._short):
            return True
        return any(pattern.search(part) for pattern in self._patterns for part in (title, text))


@lru_cache(maxsize=50_000)
def _document_forms(title: str, text: str) -> tuple[str, str, str]:
    return normal_forms(f"{title}\n{text}")
