"""`make_examples`: scenes written as prompts, each from its own random stream.

The stream of an example is seeded by split, task, condition, seed and index, so any example can be made alone and in
any order, and train, probe and test sets share no stream; `names.py` sees to it that they share no name either.
Mixtures and controls use the streams of the conditions that they are made from: of the same index, a mixture has the
very example of its member, `real_short` the facts of `real`, and `real_shuffled` the prompt of `real`.
"""

from __future__ import annotations

import random
from typing import Any

from retrieval_heads.data.conditions import get_condition
from retrieval_heads.data.example import TASKS, Example
from retrieval_heads.data.layout import place, write_citation, write_prompt
from retrieval_heads.data.relations import Fact
from retrieval_heads.data.scene import Counter, Document, Query, Scene, SceneBuilder
from retrieval_heads.data.shuffle import swap_answers
from retrieval_heads.errors import ConfigError

NUMBERS = range(10, 100)
"""Documents are numbered from here at random, increasing, so that a number tells nothing about the place."""
RESERVE = 48
"""Tokens kept for question, answer and special tokens, a query."""


def make_examples(
    *, task: str, condition: str, length: int, n: int, seed: int, split: str = "train", tokenizer: Any = None,
) -> list[Example]:
    """Make `n` examples of at most `length` tokens, prompt and answer together.

    Args:
        task: a name of `TASKS`: `mdqa`, `musique` or `summhay`.
        condition: a name of `CONDITIONS`; of `real_shuffled`, the order of the answers depends on `n`.
        length: in tokens of `tokenizer`.
        n: how many.
        seed: another seed gives other examples.
        split: `base`, `train`, `probe` or `test`; no two share a name.
        tokenizer: a fast tokenizer; the embedded base model's when None.

    Returns:
        The examples; `meta` has `id`, `hops`, `documents` (how many), `gold`
        (numbers of the documents that hold a needle) and `forms` (how the needles are put).

    Raises:
        ConfigError: an unknown task, condition or split.
        DataError: `length` is too short for the documents that the task needs; `real_shuffled` with a single example.
    """
    if tokenizer is None:
        from retrieval_heads.models.base import load_tokenizer

        tokenizer = load_tokenizer()
    count = token_counter(tokenizer)
    kind = get_condition(condition)
    examples = [make_example(task, kind.source(index), length, seed, index, split, count) for index in range(n)]
    if not kind.shuffled:
        return examples
    return swap_answers(examples, condition, random.Random(f"{split}|{task}|{condition}|{seed}"))


def make_example(task: str, condition: str, length: int, seed: int, index: int, split: str, count: Counter) -> Example:
    """The `index`-th example of a condition that is made from no other; see `make_examples`."""
    rng = random.Random(f"{split}|{task}|{condition}|{seed}|{index}")
    scene = build_scene(rng, task, condition, length - RESERVE, split, count)
    query = scene.queries[0]
    prompt, answer, needles, numbers = write(scene, query, number(rng, len(scene.documents)))
    meta = {
        "id": f"{task}-{condition}-{split}-{seed}-{index}",
        "hops": len(query.facts), "documents": len(scene.documents), "gold": numbers,
        "forms": stated_forms(scene.documents, query.facts),
    }
    return Example(task, prompt, answer, (answer,), tuple(needles), meta)


def build_scene(
    rng: random.Random, task: str, condition: str, budget: int, split: str, count: Counter, n_queries: int = 1,
    compact: bool = False,
) -> Scene:
    """The documents and queries of one prompt, the documents in random order and at most `budget` tokens long.

    Raises:
        ConfigError: an unknown task, condition or split; a condition that is made from others.
        DataError: `budget` is too short for the documents that the task needs.
    """
    if task not in TASKS:
        raise ConfigError("unknown task", where="task", value=task, remedy=f"Use one of {', '.join(TASKS)}.")
    builder = SceneBuilder(rng, split, get_condition(condition), compact)
    if builder.condition.members:
        raise ConfigError(
            "made from the examples of other conditions, with no scene of its own", where="condition", value=condition,
            remedy=f"Use {' or '.join(builder.condition.members)}.",
        )
    scene = TASKS[task].build(builder, budget, count, n_queries)
    rng.shuffle(scene.documents)
    return scene


def write(scene: Scene, query: Query, numbers: list[int]) -> tuple[str, str, list[tuple[int, int]], list[int]]:
    """Write a query's prompt: prompt, answer, needle spans, numbers of the documents that hold a needle."""
    prompt, spans = write_prompt(
        [(n, d.title, d.text) for n, d in zip(numbers, scene.documents, strict=True)], query.text
    )
    needles, gold = [], []
    for n, document, span in zip(numbers, scene.documents, spans, strict=True):
        found = needle_spans(document, query.facts)
        needles += [place(needle, span) for needle in found]
        gold += [n] * bool(found)
    return prompt, query.answer or write_citation(gold), needles, gold


def number(rng: random.Random, n: int) -> list[int]:
    """Increasing document numbers, drawn at random while two digits suffice."""
    return sorted(rng.sample(NUMBERS, n)) if n <= len(NUMBERS) else list(range(10, 10 + n))


def needle_spans(document: Document, facts: tuple[Fact, ...]) -> list[tuple[int, int]]:
    """Character spans, within the document's text, of the sentences that state one of the facts."""
    spans, start = [], 0
    for sentence in document.sentences:
        if any(fact in facts for fact in sentence.facts):
            spans.append((start, start + len(sentence.text)))
        start += len(sentence.text) + 1
    return spans


def stated_forms(documents: list[Document], facts: tuple[Fact, ...]) -> list[str]:
    """How the needles are put: `relation/form/variant` for each time that one of the facts is stated."""
    sentences = (sentence for document in documents for sentence in document.sentences)
    pairs = (pair for sentence in sentences for pair in zip(sentence.facts, sentence.forms, strict=True))
    return [form for fact, form in pairs if fact in facts]


def token_counter(tokenizer: Any) -> Counter:
    """A function that counts tokens of texts, without special tokens."""
    backend = tokenizer.backend_tokenizer

    def count(texts: Any) -> list[int]:
        return [len(encoding.ids) for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count
