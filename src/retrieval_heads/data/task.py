"""What a task is, and how a predicted answer is scored, as the official scripts of the three tasks do it.

* Exact match and token F1: SQuAD (Rajpurkar et al. 2016, `evaluate-v1.1.py`), with the treatment of empty answers of
  SQuAD 2.0, which MuSiQue's `metrics/answer.py` (Trivedi et al. 2022) shares.
* Best-subspan exact match: multi-document question answering, `metrics.py` and `evaluate_qa_responses.py` of Lost in
  the Middle (Liu et al. 2024).
* Citation precision, recall and F1: `utils_eval.py` of Summary of a Haystack (Laban et al. 2024).

Every score is a float in [0, 1]; with several accepted answers the best one counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retrieval_heads.errors import DataError

if TYPE_CHECKING:
    from retrieval_heads.data.scene import Scene

ANSWER_METRICS = ("exact_match", "f1", "best_subspan_em")
"""Metrics of a question with a short answer."""

CITATION_METRICS = ("exact_match", "citation_precision", "citation_recall", "citation_f1")
"""Metrics of a question whose answer is a list of document numbers."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_BRACKETS = re.compile(r"\[([0-9, ]+)\]")
_NUMBER = re.compile(r"[0-9]+")


def normalize_answer(text: str) -> str:
    """SQuAD's normal form: lower case, without ASCII punctuation and the words a, an, the; single spaces.

    The order is the scripts': punctuation goes first and without a gap, so `U.S.` is `us` and `the-end` is `theend`.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Iterable[str]) -> float:
    """1.0 when the prediction's normal form is that of an accepted answer."""
    return float(normalize_answer(prediction) in map(normalize_answer, _some(answers)))


def token_f1(prediction: str, answers: Iterable[str]) -> float:
    """F1 of the words of the normal forms, counted with multiplicity.

    As in SQuAD 2.0 and MuSiQue, two empty normal forms agree (1.0) and an empty and a non-empty one do not (0.0).
    """
    return max(_f1(normalize_answer(prediction).split(), normalize_answer(answer).split()) for answer in _some(answers))


def best_subspan_em(prediction: str, answers: Iterable[str]) -> float:
    """1.0 when the normal form of an accepted answer is part of that of the prediction's first line.

    Only the first line counts, as in `evaluate_qa_responses.py`: a model could otherwise score by copying its prompt.
    The match is one of characters (`ran` is in `france`), and an answer with an empty normal form is in everything:
    both are the official behaviour.
    """
    line = normalize_answer(prediction.split("\n")[0])
    return float(any(normalize_answer(answer) in line for answer in _some(answers)))


def citations(text: str) -> frozenset[int]:
    """The document numbers that a text cites; order and repetition do not count.

    Numbers in square brackets, as Summary of a Haystack writes them (`[3, 7]`), are the only ones read where there are
    any; without brackets every number is read (`3, 7`).
    """
    inside = " ".join(_BRACKETS.findall(text))
    numbers = _NUMBER.findall(inside) or _NUMBER.findall(text)
    # a model may emit thousands of digits: Python refuses to convert those, and no document has such a number
    return frozenset(int(number[:18]) for number in numbers)


def citation_scores(prediction: str, answers: Iterable[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of the cited document numbers, of the accepted answer with the best F1.

    A prediction without a number scores 0 in all three.

    Raises:
        DataError: an accepted answer without a document number.
    """
    cited = citations(prediction)
    best = (0.0, 0.0, 0.0)
    for answer in _some(answers):
        wanted = citations(answer)
        if not wanted:
            raise DataError(
                "the answer to a citation question has no document number", where="answers", value=answer,
                remedy="Write the numbers of the documents, as in `2, 5, 11`.",
            )
        if common := len(cited & wanted):
            precision, recall = common / len(cited), common / len(wanted)
            best = max(best, (precision, recall, _harmonic(precision, recall)), key=lambda scores: scores[2])
    return best


def score_answer(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """`ANSWER_METRICS` of one prediction, by name."""
    scores = (score(prediction, answers) for score in (exact_match, token_f1, best_subspan_em))
    return dict(zip(ANSWER_METRICS, scores, strict=True))


def score_citation(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """`CITATION_METRICS` of one prediction, by name; raises as `citation_scores`.

    `exact_match` has one meaning for all tasks, so it asks for the reference's order of the numbers; the others do not.
    """
    scores = (exact_match(prediction, answers), *citation_scores(prediction, answers))
    return dict(zip(CITATION_METRICS, scores, strict=True))


def _f1(predicted: list[str], wanted: list[str]) -> float:
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = (Counter(predicted) & Counter(wanted)).total()
    return _harmonic(common / len(predicted), common / len(wanted))


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _some(answers: Iterable[str]) -> list[str]:
    # a bare string is an iterable of its characters, which would score silently and wrongly
    accepted = [answers] if isinstance(answers, str) else list(answers)
    if not accepted:
        raise DataError("no accepted answer", where="answers", remedy="Give at least one.")
    return accepted


@dataclass(frozen=True)
class Task:
    """What the study has to know of a task; by default the answers are short texts that stand in a needle.

    Attributes:
        name: as it stands in profiles, files and tables.
        build: `build(builder, budget, count, n_queries)` makes the scene of a generated example, in every condition,
            of at most `budget` tokens as `count` counts them; None for a task of the user's own, from files only.
        score: the metrics of one prediction, by name, given the accepted answers.
        metrics: their names, in the order of the tables.
        main_metric: the one by which the study compares runs.
        head_score: the kind of score by which its retrieval heads are found: `copy`, or `insight` where the tokens of
            the answer stand in no needle.
        cites: the answer is the numbers of the documents that hold a needle. What such an answer says hangs on where
            needles are, and it is right in any order, so claims go by the main metric and not by exact match.
        chained: a question is about a chain of facts, each of which a written text has to state.
    """

    name: str
    build: Callable[..., Scene] | None = None
    score: Callable[[str, Sequence[str]], dict[str, float]] = score_answer
    metrics: tuple[str, ...] = ANSWER_METRICS
    main_metric: str = "f1"
    head_score: str = "copy"
    cites: bool = False
    chained: bool = False
