"""`make_examples`: scenes written as prompts, each from its own random stream.

The stream of an example is seeded by split, task, condition, seed and index, so any example can be made alone and in
any order, and train, probe and test sets share no stream; `relations.py` sees to it that they share no name either.
Mixtures and controls use the streams of the conditions that they are made from: of the same index, a mixture has the
very example of its member, `real_short` the facts of `real`, and `real_shuffled` the prompt of `real`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from retrieval_heads.data.conditions import get_condition
from retrieval_heads.data.example import TASKS, Example
from retrieval_heads.data.prompt_format import QUESTION, Span, place, write_citation, write_prompt
from retrieval_heads.data.relations import Fact
from retrieval_heads.data.scene import Counter, Document, Query, Scene, SceneBuilder
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

NUMBERS = range(10, 100)
"""Documents are numbered from here at random, increasing, so that a number tells nothing about the place."""
RESERVE = 48
"""Tokens kept for question, answer and special tokens, a query."""
TRIES = 1000
"""Orders of the answers that are tried; about one of three leaves no answer in its place."""


def make_examples(
    *, task: str, condition: str, length: int, n: int, seed: int, split: str = "train", tokenizer: Any = None,
) -> list[Example]:
    """Make `n` examples of at most `length` tokens, prompt and answer together.

    Args:
        task: a name of `TASKS`: `mdqa`, `musique` or `summhay`.
        condition: a name of `CONDITIONS`; for `real_shuffled`, the order of the answers depends on `n`.
        length: in tokens of `tokenizer`.
        n: number of examples.
        seed: another seed gives other examples.
        split: `base`, `train`, `probe` or `test`; no two share a name.
        tokenizer: a fast tokenizer; the embedded base model's when None.

    Returns:
        The examples; `meta` has `id`, `hops`, `documents` (how many), `gold`
        (numbers of the documents that hold a needle) and `forms` (how the needles are worded).

    Raises:
        ConfigError: an unknown task, condition or split.
        DataError: `length` is too short for the documents that the task needs; `real_shuffled` with a single example.
    """
    if tokenizer is None:
        tokenizer = embedded_tokenizer()
    count = token_counter(tokenizer)
    kind = get_condition(condition)
    examples = [make_example(task, kind.source(index), length, seed, index, split, count) for index in range(n)]
    if not kind.shuffled:
        return examples
    return swap_answers(examples, condition, random.Random(f"{split}|{task}|{condition}|{seed}"), count)


def make_example(task: str, condition: str, length: int, seed: int, index: int, split: str, count: Counter) -> Example:
    """The `index`-th example of a condition that is made from no other; see `make_examples`."""
    rng = random.Random(f"{split}|{task}|{condition}|{seed}|{index}")
    scene = build_scene(rng, task, condition, length - RESERVE, split, count)
    query, numbers = scene.queries[0], number(rng, len(scene.documents))
    prompt, answer, needles = write(scene, query, numbers)
    sentences = [sentence for document in scene.documents for sentence in document.sentences]
    meta = {
        "id": f"{task}-{condition}-{split}-{seed}-{index}",
        "hops": len(query.facts), "documents": len(scene.documents), "gold": gold_numbers(scene, query, numbers),
        "forms": [form for sentence in sentences
                  for fact, form in zip(sentence.facts, sentence.forms, strict=True) if fact in query.facts],
    }
    return Example(task, prompt, answer, (answer,), tuple(needles), meta)


def build_scene(
    rng: random.Random, task: str, condition: str, budget: int, split: str, count: Counter, n_queries: int = 1,
    compact: bool = False,
) -> Scene:
    """The documents and queries of one prompt, the documents in random order and at most `budget` tokens long."""
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


def write(scene: Scene, query: Query, numbers: Sequence[int]) -> tuple[str, str, list[Span]]:
    """A query's prompt, answer and needle spans; `numbers` are those of the documents."""
    prompt, spans = write_prompt(
        [(n, d.title, d.text) for n, d in zip(numbers, scene.documents, strict=True)], query.text
    )
    needles = [place(needle, span) for document, span in zip(scene.documents, spans, strict=True)
               for needle in needle_spans(document, query.facts)]
    return prompt, answer_to(scene, query, numbers), needles


def answer_to(scene: Scene, query: Query, numbers: Sequence[int]) -> str:
    """The answer to a query: its own, or the numbers of the documents that hold a needle."""
    return query.answer or write_citation(gold_numbers(scene, query, numbers))


def gold_numbers(scene: Scene, query: Query, numbers: Sequence[int]) -> list[int]:
    """Of the documents' numbers, those of documents that hold a needle."""
    return [n for n, document in zip(numbers, scene.documents, strict=True) if needle_spans(document, query.facts)]


def number(rng: random.Random, n: int) -> list[int]:
    """Increasing document numbers, drawn at random while two digits suffice."""
    return sorted(rng.sample(NUMBERS, n)) if n <= len(NUMBERS) else list(range(10, 10 + n))


def needle_spans(document: Document, facts: tuple[Fact, ...]) -> list[Span]:
    """Character spans, within the document's text, of the sentences that state one of the facts."""
    spans, start = [], 0
    for sentence in document.sentences:
        if any(fact in facts for fact in sentence.facts):
            spans.append((start, start + len(sentence.text)))
        start += len(sentence.text) + 1
    return spans


def token_counter(tokenizer: Any) -> Counter:
    """A function that counts tokens of texts, without special tokens."""
    encoded = partial(tokenizer.backend_tokenizer.encode_batch_fast, add_special_tokens=False)
    return lambda texts: [len(encoding.ids) for encoding in encoded(list(texts))]


def swap_answers(
    examples: Sequence[Example], condition: str, rng: random.Random, count: Counter,
) -> list[Example]:
    """The same prompts with the same answers, but no example with its own; every such order is equally likely, but that
    an answer that makes its example too long changes places with the first one with which both fit.

    A control: training on them can teach the format, and nothing that needs a link from needle to answer (random labels
    as a control: Zhang et al. 2017, Understanding Deep Learning Requires Rethinking Generalization). The needles stay
    those of the prompt; `meta["answer_of"]` is the id of the example that the answer belongs to.
    """
    others = list(examples)
    sizes = count([one.joint + one.answer for one in examples])
    tokens = {one.answer: size for one, size in zip(examples, sizes, strict=True)}

    def fits(example: Example, other: Example) -> bool:
        """By text and not only by place: two examples may cite the same documents."""
        room = example.meta.get("length", math.inf) - example.meta.get("tokens", 0)
        return example.answer != other.answer and tokens[other.answer] - tokens[example.answer] <= room

    for _ in range(TRIES):
        rng.shuffle(others)
        if any(example.answer == other.answer for example, other in zip(examples, others, strict=True)):
            continue
        for index, example in enumerate(examples):
            if not fits(example, others[index]):
                place = next((place for place, another in enumerate(examples)
                              if fits(example, others[place]) and fits(another, others[index])), index)
                others[index], others[place] = others[place], others[index]
        if all(fits(example, other) for example, other in zip(examples, others, strict=True)):
            return [replace(example, answer=other.answer, answers=other.answers, meta={
                **example.meta, "answer_of": other.meta["id"],
                "id": "-".join([example.task, condition, *example.meta["id"].split("-")[-3:]]),  # split, seed and index
            }) for example, other in zip(examples, others, strict=True)]
    raise DataError(
        "the answers cannot be swapped so that no example keeps its own or gets too long", where=condition,
        value=len(examples), remedy="Make more examples, at least two with different answers.",
    )


def plain_text(tokenizer: Any, *, n: int, length: int, seed: int = 0, split: str = "test") -> torch.Tensor:
    """Real documents without a question, int64 `[n, length]`: what a model can do without retrieval.

    No document stands twice in a row. Names that come up again within a row can still be copied, so the loss on such
    text is not free of retrieval; it just does not hang on it.
    """
    import torch

    examples = make_examples(
        task="mdqa", condition="real", length=length + 4 * RESERVE, n=n, seed=seed, split=split, tokenizer=tokenizer,
    )
    texts = [example.prompt[: example.prompt.rfind(QUESTION)] for example in examples]
    rows = [ids[:length] for ids in tokenizer(texts, verbose=False)["input_ids"]]
    shortest = min(map(len, rows), default=0)
    if shortest < length:
        raise ConfigError(f"the documents of a row have {shortest} tokens", where="length", value=length,
                          remedy="Ask for shorter rows.")
    return torch.tensor(rows)
