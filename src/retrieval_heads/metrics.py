"""Scores of one predicted answer, as the official scripts of the three tasks define them.

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
from collections.abc import Callable, Iterable

from retrieval_heads.data.example import Example
from retrieval_heads.errors import DataError

ANSWER_METRICS = ("exact_match", "f1", "best_subspan_em")
"""Metrics of a question with a short answer."""

CITATION_METRICS = ("exact_match", "citation_precision", "citation_recall", "citation_f1")
"""Metrics of a question whose answer is a list of document numbers."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_BRACKETS = re.compile(r"\[([0-9, ]+)\]")
_NUMBER = re.compile(r"[0-9]+")


def metric_names(task: str) -> tuple[str, ...]:
    """The metrics of a task; a task of the user's own is scored as a question with a short answer."""
    return CITATION_METRICS if task == "summhay" else ANSWER_METRICS


def main_metric(task: str) -> str:
    """The metric by which the study compares runs: F1 of the tokens, or of the citations for `summhay`."""
    return "citation_f1" if task == "summhay" else "f1"


def normalize_answer(text: str) -> str:
    """SQuAD's normal form: lower case, without ASCII punctuation and the words a, an, the; single spaces.

    The order is the scripts': punctuation goes first and without a gap, so `U.S.` is `us` and `the-end` is `theend`.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Iterable[str]) -> float:
    """1.0 when the prediction's normal form is that of an accepted answer."""
    return _best(_exact, prediction, answers)


def token_f1(prediction: str, answers: Iterable[str]) -> float:
    """F1 of the words of the normal forms, counted with multiplicity.

    As in SQuAD 2.0 and MuSiQue, two empty normal forms agree (1.0) and an empty and a non-empty one do not (0.0).
    """
    return _best(_f1, prediction, answers)


def best_subspan_em(prediction: str, answers: Iterable[str]) -> float:
    """1.0 when the normal form of an accepted answer is part of that of the prediction's first line.

    Only the first line counts, as in `evaluate_qa_responses.py`: a model could otherwise score by copying its prompt.
    The match is one of characters (`ran` is in `france`), and an answer with an empty normal form is in everything:
    both are the official behaviour.
    """
    return _best(_subspan, prediction.split("\n")[0].strip(), answers)


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
        common = len(cited & wanted)
        if common:
            precision, recall = common / len(cited), common / len(wanted)
            best = max(best, (precision, recall, _harmonic(precision, recall)), key=lambda scores: scores[2])
    return best


def score_prediction(example: Example, prediction: str) -> dict[str, float]:
    """Every metric of the example's task (`metric_names`) for one prediction, by name.

    `exact_match` has one meaning for all tasks, so for `summhay` it asks for the reference's order of the numbers; the
    citation metrics do not.

    Raises:
        DataError: a `summhay` example whose answer has no document number.
    """
    scores = {"exact_match": exact_match(prediction, example.answers)}
    if example.task == "summhay":
        return scores | dict(zip(CITATION_METRICS[1:], citation_scores(prediction, example.answers), strict=True))
    return scores | {
        "f1": token_f1(prediction, example.answers),
        "best_subspan_em": best_subspan_em(prediction, example.answers),
    }


def _exact(prediction: str, answer: str) -> float:
    return float(normalize_answer(prediction) == normalize_answer(answer))


def _f1(prediction: str, answer: str) -> float:
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = (Counter(predicted) & Counter(wanted)).total()
    return _harmonic(common / len(predicted), common / len(wanted))


def _subspan(prediction: str, answer: str) -> float:
    return float(normalize_answer(answer) in normalize_answer(prediction))


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _best(score: Callable[[str, str], float], prediction: str, answers: Iterable[str]) -> float:
    return max(score(prediction, answer) for answer in _some(answers))


def _some(answers: Iterable[str]) -> list[str]:
    # a bare string is an iterable of its characters, which would score silently and wrongly
    accepted = [answers] if isinstance(answers, str) else list(answers)
    if not accepted:
        raise DataError("no accepted answer", where="answers", remedy="Give at least one.")
    return accepted
