"""From a file of real training examples to the files of its synthetic conditions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retrieval_heads.data.examples import token_counter
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.data.markup import control_tokens
from retrieval_heads.data.official.phrases import not_searched
from retrieval_heads.data.written.author import Order
from retrieval_heads.data.written.checks import Fault
from retrieval_heads.data.written.client import Client
from retrieval_heads.data.written.conditions import check_conditions, make_condition, needs_writer
from retrieval_heads.data.written.fitting import Piece, tokens_of
from retrieval_heads.data.written.haystack import Pool, pool_of_records
from retrieval_heads.data.written.orders import distractor_orders, needle_orders, needle_piece
from retrieval_heads.data.written.outcome import RECORD, Outcome
from retrieval_heads.data.written.real import Real
from retrieval_heads.data.written.templates import state_fact
from retrieval_heads.data.written.writers import EndpointWriter, Writer
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.files import write_whole

CROWDED = "too few documents lack its answer to fill the context"
OUTPUT_TOKENS = 1.4
"""Tokens of a word of English text, for estimates."""


@dataclass(frozen=True)
class Plan:
    """What is to be made.

    Attributes:
        reals: the real examples, in their order.
        conditions: names of the conditions to make.
        length: most tokens an example.
        count: how many examples a condition; those whose texts fail are replaced by later ones. None for all that
            can be made.
        distractors: how many documents a language model writes for the context `high`; 0 takes the documents of
            other real examples.
        concurrency: requests at a time.
        attempts: how often a text is asked for.
        control: control tokens of the model to be trained, which no text may hold; see `for_tokenizer`.
    """

    reals: Sequence[Real]
    conditions: Sequence[str]
    length: int
    count: int | None = None
    distractors: int = 0
    concurrency: int = 8
    attempts: int = 3
    control: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_conditions(self.conditions)
        for name, value, least in (("--count", self.count, 1), ("--distractors", self.distractors, 0),
                                   ("--length", self.length, 1)):
            if value is not None and value < least:
                raise ConfigError("too small", where=name, value=value, remedy=f"Give {least} or more.")

    @property
    def writes_needles(self) -> bool:
        return any(map(needs_writer, self.conditions))

    @property
    def writes_context(self) -> bool:
        return self.distractors > 0 and any(name.endswith("_high") for name in self.conditions)

    @property
    def asks(self) -> bool:
        """Whether an endpoint is needed."""
        return self.writes_needles or self.writes_context

    def for_tokenizer(self, tokenizer: Any) -> Plan:
        """The same plan for a model with that tokenizer."""
        return replace(self, control=tuple(control_tokens(tokenizer)))

    def wanted(self) -> int:
        """Examples to begin with, before any has to be replaced."""
        return min(self.count or len(self.reals), len(self.reals))


def first_orders(plan: Plan) -> list[Order]:
    """All texts that a plan asks for first, without those asked again and those in place of failed ones."""
    return _orders(plan, plan.reals[: plan.wanted()])


def all_orders(plan: Plan) -> list[Order]:
    """The texts of all its real examples, those that may have to stand in for failed ones too."""
    return _orders(plan, plan.reals)


def _orders(plan: Plan, reals: Sequence[Real]) -> list[Order]:
    orders = [order for real in reals for order in needle_orders(real, plan.control)] * plan.writes_needles
    return orders + distractor_orders(plan.reals, plan.distractors, control=plan.control)[1] * plan.writes_context


def produce(
    plan: Plan, tokenizer: Any, out: str | Path, client: Client | None = None, *, writer: Writer | None = None,
) -> Outcome:
    """Write `OUT/CONDITION.jsonl.gz` for each condition, all of the same real examples, and `OUT/written.json`.

    Args:
        client: for the conditions with written texts, or
        writer: another source of texts. Examples without theirs are then left out of all conditions.

    Raises:
        ConfigError: texts have to be written, and there is no client.
        DataError: fewer examples than `count`; a length that is too short, or a context that cannot be filled. Nothing
            is written then, but what was asked is in the cache.
        EndpointError, ResultError: see `Client`.
    """
    plan, given = plan.for_tokenizer(tokenizer), writer is not None
    if client is not None and writer is None:
        writer = EndpointWriter(client, plan.concurrency, plan.attempts)
    if plan.asks and writer is None:
        raise ConfigError("texts have to be written", where="client", remedy="Give an endpoint.")
    outcome = Outcome()
    needed = plan.writes_needles or given
    written = _needles(plan, tokenizer, writer, outcome) if needed else {}
    reals = _enough([real for real in plan.reals if real.id in written] if needed else plan.reals, plan, outcome)
    pool = _pool(plan, tokenizer, writer, outcome) if any(name.endswith("_high") for name in plan.conditions) else None
    if given and pool is not None:  # what is left out of `real` too need not end the call
        crowded = {real.id: CROWDED for real in reals if not pool.fills(real, plan.length)}
        outcome.dropped.update(crowded)
        reals = _enough([real for real in reals if real.id not in crowded], plan, outcome)
    out = Path(out)
    outcome.ids = [real.id for real in reals]
    if any(name.startswith("low_") for name in plan.conditions):
        _count_templates(reals, outcome)
    for condition in plan.conditions:
        examples = make_condition(reals, condition, tokenizer, plan.length, pool=pool, written=written)
        write_examples(out / f"{condition}.jsonl.gz", examples)
        outcome.files[f"{condition}.jsonl.gz"] = len(examples)
    outcome.not_searched = not_searched(real.hidden for real in reals)
    record = {
        "files": outcome.files, "length": plan.length, "dropped": outcome.dropped, "refused": outcome.refused,
        "distractors_dropped": outcome.distractors_dropped, "distractors": plan.distractors,
        "templates": {"quoting": outcome.quoting, "types": dict(outcome.templates.most_common())},
        **(writer.facts() if writer else {"model": None, "parameters": None}),
        "answers_not_searched": outcome.not_searched,
    }
    write_whole(out / RECORD, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
    return outcome


def _enough(reals: Sequence[Real], plan: Plan, outcome: Outcome) -> list[Real]:
    """The first `count` of the examples that are left; `DataError` where there are fewer."""
    if len(reals) < (plan.count or 1):
        told = "; ".join(f"{n} because {reason}" for reason, n in Counter(outcome.dropped.values()).most_common())
        raise DataError(
            f"only {len(reals)} examples can be made ({told or 'there are no more real ones'})", where="--count",
            value=plan.count or "all",
            remedy="Give more real examples or attempts, a better model, or a smaller count.",
        )
    return list(reals[: plan.count])


def _count_templates(reals: Sequence[Real], outcome: Outcome) -> None:
    facts = [fact for real in reals if not real.cites for fact in real.facts]
    statements = [state_fact(fact.question, fact.answer) for fact in facts]
    outcome.templates.update(statement.kind for statement in statements)
    outcome.quoting = sum(statement.quotes for statement in statements)


def _needles(plan: Plan, tokenizer: Any, writer: Writer, outcome: Outcome) -> dict[str, list[Piece]]:
    """Needle documents by example id; an example that lost one of its texts is replaced by a later one."""
    made: dict[str, list[Piece]] = {}
    waiting = list(plan.reals)
    while waiting and len(made) < plan.wanted():
        missing = plan.wanted() - len(made)
        batch, waiting = waiting[:missing], waiting[missing:]
        orders = [needle_orders(real, plan.control) for real in batch]
        texts = iter(writer.texts([one for many in orders for one in many]))
        for real, many in zip(batch, orders, strict=True):
            results = [next(texts) for _ in many]
            faults = [result.reason for result in results if isinstance(result, Fault)]
            outcome.refused.update({
                f"{real.id}, text {place}": result.told for place, result in enumerate(results)
                if isinstance(result, Fault)
            })
            pieces = [] if faults else [needle_piece(real, index, text) for index, text in enumerate(results)]
            if not faults and tokens_of(real, pieces, tokenizer) > plan.length:
                faults.append("its documents are longer than the whole length")
            if faults:
                outcome.dropped[real.id] = faults[0]
            else:
                made[real.id] = pieces
    return made


def _pool(plan: Plan, tokenizer: Any, writer: Writer | None, outcome: Outcome) -> Pool:
    count = token_counter(tokenizer)
    if not plan.writes_context:
        return pool_of_records(plan.reals, count)
    titles, orders = distractor_orders(plan.reals, plan.distractors, control=plan.control)
    results = writer.texts(orders)
    outcome.distractors_dropped.update(result.reason for result in results if isinstance(result, Fault))
    documents = [(title, text) for title, text in zip(titles, results, strict=True) if isinstance(text, str)]
    return Pool(documents, count)


def estimate(plan: Plan, tokenizer: Any, known: Any = None) -> dict[str, int]:
    """What a plan asks of an endpoint at first: `requests`, of which `cached`, and the `tokens_in` and `tokens_out` of
    the others, in tokens of the given tokenizer (the endpoint's may differ by a fifth or so).

    Args:
        known: whether the answer to messages is there already; none is when None.
    """
    orders = first_orders(plan)
    fresh = [order for order in orders if known is None or not known(order.messages)]
    texts = [message["content"] for order in fresh for message in order.messages]
    return {
        "requests": len(orders), "cached": len(orders) - len(fresh),
        "tokens_in": sum(token_counter(tokenizer)(texts)) + 8 * len(texts) if texts else 0,
        "tokens_out": round(sum(order.wanted.words for order in fresh) * OUTPUT_TOKENS),
    }
