"""What a language model is asked to write, a document for each fact of a real example and ones about other things; and
whether what it wrote can be used: what has to stand in it does, what must not does not, and it is a text.

The prompts are YAML files in `prompts/`, `TASK_PURPOSE.yaml`; the head of each names what stands in its braces. A task
without prompts of its own takes those of `mdqa`: one fact in one document. Each check gives a reason, the same for all
of its kind, under which failures are counted, and a sentence that tells the writer what is wrong.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from statistics import fmean, median
from typing import Any, NamedTuple

import yaml

from retrieval_heads.data.markup import left_markup, own_text
from retrieval_heads.data.official.answers import exact_pattern, occurrences, searched
from retrieval_heads.data.written.cache import Reply
from retrieval_heads.data.written.real import Real

Messages = list[dict[str, str]]
WORDS = (40, 1000)
"""Fewest and most words that are asked for: those of the real documents, within these bounds."""
LENGTHS = (0.4, 2.5)
"""Fewest and most words that a text may have, as multiples of the number that was asked for."""
COVERED = 0.4
"""Fraction of the telling words of an insight that a text in other words has to share."""
STATED = 0.75
"""Fraction of them from which a text is taken to state the insight."""

_REFUSAL = re.compile(
    r"\W*(i'm sorry|i’m sorry|i am sorry|sorry\b|i apologi[sz]e|i can'?t|i can’t|i cannot|i'm unable|i’m unable"
    r"|i am unable|i won'?t|unfortunately, i\b|as an ai\b)", re.IGNORECASE,
)
_PREAMBLE = re.compile(r"\W*(sure\b[,!.]|certainly\b[,!.]|of course[,!.]|here is\b|here's\b|here’s\b|title:|passage:"
                       r"|(?:thinking process|thoughts?|reasoning|analysis|final answer):)", re.IGNORECASE)
# who speaks, where a server has left out the control tokens around it, as in `assistantfinal`
_ROLE = re.compile(r"^[ \t]*(?i:(?:assistant|user|human)[ \t]*(?::|$)|model[ \t]*$)"
                   r"|(?:^|[a-z.!?])assistant(?:final|analysis|commentary)|^(?:analysis|final)(?=[A-Z])", re.MULTILINE)
_LAYOUT = re.compile(r"^\s*(Document \d+|Question|Answer)\s*:", re.MULTILINE)
_MARKUP = re.compile(r"^\s*(#{1,6} |```|[-*] )|\*\*", re.MULTILINE)
_SPACE = re.compile(r"[ \t\r\n\f\v\x1c-\x1f\x85\u2028\u2029]+")
_TELLING = re.compile(r"[^\W_]{4,}|\d[\d.,]*\d|\d")


@dataclass(frozen=True)
class Wanted:
    """What a text is checked for.

    Attributes:
        words: the number of words that was asked for.
        present: phrases that have to stand in it, letter for letter and as whole words.
        absent: phrases that must not stand in it as whole words, in no spelling of capitals.
        insight: a statement that it has to contain in other words; none when empty.
        unsaid: a statement that it must not contain in any words; none when empty.
        control: control tokens of the model that is to read it, which must not stand in it.
    """

    words: int
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    insight: str = ""
    unsaid: str = ""
    control: tuple[str, ...] = ()


class Fault(NamedTuple):
    """Why a text cannot be used: the kind, and the sentence for the writer."""

    reason: str
    told: str


@dataclass(frozen=True)
class Order:
    """One text to be written: what is asked, what the answer is checked for, and for needles whose it is: the id of
    the example and the place among its texts; for other documents their title."""

    messages: Messages
    wanted: Wanted
    id: str = ""
    place: int = 0
    title: str = ""


def write_messages(task: str, purpose: str, **fields: Any) -> Messages:
    """The chat messages that ask for one text; `purpose` is that of a prompt's file, `fields` are what stands in its
    braces, where `forbidden` is a list of names that must not occur."""
    template = _template(f"{task if _file(f'{task}_{purpose}').is_file() else 'mdqa'}_{purpose}")
    names = "; ".join(fields.get("forbidden", ()))
    fields["forbidden"] = f"- These words must not occur anywhere in the text: {names}" if names else ""
    return [{"role": role, "content": template[role].format(**fields).strip()} for role in ("system", "user")]


def ask_again(messages: Messages, text: str, reason: str) -> Messages:
    """The conversation that goes on after a text failed: what was asked, what came, and why that cannot be used."""
    again = _template("again")["user"].format(reason=reason).strip()
    came = text.encode("utf-8", "replace").decode()  # halves of surrogate pairs as question marks
    # an empty message of the assistant is refused by some endpoints
    return [*messages, {"role": "assistant", "content": came or "(nothing)"}, {"role": "user", "content": again}]


@cache
def _template(name: str) -> dict[str, str]:
    return yaml.safe_load(_file(name).read_text(encoding="utf-8"))


def _file(name: str) -> Traversable:
    return files("retrieval_heads.data.written").joinpath("prompts", f"{name}.yaml")


def needle_orders(real: Real, control: tuple[str, ...] = ()) -> list[Order]:
    """One order a needle document of the conditions with concept `high`, in the order of the facts; for a citation
    one per document that is to be cited; `control` as in `Wanted`."""
    words = _within(fmean(len(real.documents[index][2].split()) for index in real.gold))
    if real.cites:
        insight = real.facts[0].question
        return [
            Order(
                write_messages(real.example.task, "needle", question=insight, words=words, number=number),
                Wanted(words, insight=insight, control=control), real.id, number - 1,
            )
            for number in range(1, len(real.gold) + 1)
        ]
    orders = []
    for step, fact in enumerate(real.facts):
        # a document that already tells a later answer would let the chain be cut short
        later = [other.answer for other in real.facts[step + 1 :]]
        if later:
            later += real.hidden
        forbidden = forbiddable(list(dict.fromkeys(later)), fact.question, fact.answer, fact.title)
        messages = write_messages(
            real.example.task, "needle", question=fact.question, answer=fact.answer, title=fact.title or fact.question,
            words=words, forbidden=forbidden,
        )
        orders.append(Order(messages, Wanted(words, (fact.answer,), forbidden, control=control), real.id, step))
    return orders


def distractor_orders(reals: Sequence[Real], n: int, control: tuple[str, ...] = ()) -> list[Order]:
    """Orders for `n` documents about topics of the real ones, drawn at random. None may mention the answers of the
    example that its topic is from; those of others are seen to where the context is filled."""
    rng = random.Random("0|distractors")
    topics = list({topic: (topic, title, real) for real in reals for topic, title in _topics(real)}.values())
    rng.shuffle(topics)
    words = _within(median(len(text.split()) for real in reals for _, _, text in real.documents))
    orders = []
    for number in range(n):
        topic, title, real = topics[number % len(topics)]
        forbidden = forbiddable(real.hidden, topic)
        messages = write_messages(
            real.example.task, "distractor", topic=topic, words=words, number=number + 1, forbidden=forbidden,
        )
        wanted = Wanted(words, absent=forbidden, unsaid=topic if real.cites else "", control=control)
        orders.append(Order(messages, wanted, title=title))
    return orders


def _topics(real: Real) -> list[tuple[str, str]]:
    """Topics with the titles of documents about them; an insight, and for a document without a title its beginning."""
    if real.cites:
        return [(real.facts[0].question, "")]
    return [(title or text[:200], title) for _, title, text in real.documents]


def _within(words: float) -> int:
    return round(min(max(words, WORDS[0]), WORDS[1]))


def cleaned(text: str) -> str:
    """A text as one paragraph, without the quotation marks that some writers put around all of it, and without what is
    certain to be markup of the writing model (`markup.own_text`).

    No-break spaces stay: they are part of some answers (`9\u00a0April`), which have to stand there letter for letter.
    """
    text = _SPACE.sub(" ", own_text(text)).strip()
    if len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("“", "”")) and not {*'"“”'} & set(text[1:-1]):
        text = text[1:-1].strip()
    return text


def find_fault(reply: Reply, wanted: Wanted) -> Fault | None:
    """The first thing that is wrong with a reply; None when its `cleaned` text can be used."""
    text = cleaned(reply.text)
    if reply.refused or reply.finish == "content_filter" or _REFUSAL.match(text):
        return Fault("the model refused", "it is a refusal; the facts are fictional and harmless.")
    if not text:
        return Fault("the text is empty", "it is empty.")
    if reply.finish == "length":
        return Fault("the text is cut off", "it was cut off; write a shorter one.")
    if found := left_markup(text, wanted.control):
        return Fault("markup of a language model in the text", f"it holds {found}; give the text alone.")
    return _malformed(own_text(reply.text), text) or _wrong_content(text, wanted)


def contains(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text as whole words, in any spelling of capitals unless it is one of those that
    are found letter for letter only (`phrases`)."""
    if pattern := exact_pattern(phrase):
        return pattern.search(text) is not None
    folded, phrase = text.casefold(), phrase.casefold().strip()
    return phrase in folded and bool(occurrences(folded, phrase, whole_words=True))


def _malformed(raw: str, text: str) -> Fault | None:
    if any(character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cs") for character in text):
        return Fault("the text holds a broken character", "it holds a broken character.")
    if found := _ROLE.search(raw):
        return Fault("markup of a language model in the text", f"it holds {found[0].strip()}; give the text alone.")
    if _PREAMBLE.match(text):
        return Fault("a remark before the text", "it begins with a remark or a label; give the text alone.")
    if _LAYOUT.search(raw):
        return Fault("a line that reads like part of the prompt", "a line begins with Document, Question or Answer.")
    if _MARKUP.search(raw):
        return Fault("markup in the text", "it has headings, lists or other markup; write plain running text.")
    return None


def _wrong_content(text: str, wanted: Wanted) -> Fault | None:
    count = len(text.split())
    if not LENGTHS[0] * wanted.words <= count <= LENGTHS[1] * wanted.words:
        return Fault(f"the text is too {'short' if count < wanted.words else 'long'}",
                     f"it has {count} words; write about {wanted.words}.")
    for phrase in wanted.present:
        if not occurrences(text, phrase, whole_words=True):
            return Fault("the answer is missing", f"these exact words do not stand in it: {phrase}")
    for phrase in wanted.absent:
        if contains(text, phrase):
            return Fault("a forbidden name is there", f"these words must not stand in it: {phrase}")
    if wanted.unsaid and states(text, wanted.unsaid):
        return Fault("the finding itself is stated", f"it must not state this: {wanted.unsaid}")
    words, there = telling_words(wanted.insight), telling_words(text)
    if numbers := sorted(word for word in words - there if word[0].isdigit()):
        return Fault("the insight is missing", f"these numbers of the insight do not stand in it: {', '.join(numbers)}")
    if len(words & there) < COVERED * len(words):
        return Fault("the insight is missing", f"this is not stated in it: {wanted.insight}")
    return None


def states(text: str, insight: str) -> bool:
    """Whether a text may state an insight in some words: it has most of the insight's telling ones."""
    words = telling_words(insight)
    return len(words & telling_words(text)) >= STATED * len(words)


@lru_cache(maxsize=50_000)
def telling_words(text: str) -> frozenset[str]:
    """Words of four letters and more, and numbers, without regard to capitals."""
    return frozenset(word.casefold() for word in _TELLING.findall(text))


def forbiddable(phrases: Sequence[str], *texts: str) -> tuple[str, ...]:
    """Those of the phrases that stand in none of the texts, and could be an answer: what may be forbidden without
    contradiction."""
    return tuple(phrase for phrase in searched(phrases) if not any(contains(text, phrase) for text in texts))
