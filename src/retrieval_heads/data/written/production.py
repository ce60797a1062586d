"""From a file of real training examples to the files of its synthetic conditions, and what these are compared with."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from retrieval_heads.data.examples import token_counter
from retrieval_heads.data.jsonl import iterate_examples, write_examples
from retrieval_heads.data.official.answers import not_searched
from retrieval_heads.data.official.loaders import told
from retrieval_heads.data.prompt_tokens import PromptTokens
from retrieval_heads.data.written.client import Client
from retrieval_heads.data.written.conditions import SYNTHETIC, make_condition, needs_writer, state_fact
from retrieval_heads.data.written.orders import Fault, Messages, Order, distractor_orders, needle_orders
from retrieval_heads.data.written.real import Real
from retrieval_heads.data.written.scenes import Piece, Pool, Scene, needle_piece, pool_of_records, write
from retrieval_heads.data.written.writers import Batch, EndpointWriter, GivenTexts
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.files import write_whole, writing_whole

CROWDED = "too few documents lack its answer to fill the context"
OUTPUT_TOKENS = 1.4
"""Tokens of a word of English text, for estimates."""
RECORD = "written.json"
TOLD = 10
"""Refused texts that are told one by one."""
COMPARED = {"real": True, "real_short": True, "real_limited": False}
"""Files that the conditions are compared with, and whether their questions are to be the same or as many others."""
HELD_OUT = "held_out"
Writer = EndpointWriter | Batch | GivenTexts


@dataclass(frozen=True)
class Plan:
    """What is to be made.

    Attributes:
        length: most tokens per example.
        count: examples per condition, where later ones replace those whose texts fail; None for all.
        distractors: how many documents a language model writes for the context `high`; 0 takes the documents of
            other real examples.
        concurrency, attempts: requests at a time, and how often a text is asked for.
        control: control tokens of the model to be trained, which no text may hold.
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
        for name in self.conditions:
            if name not in SYNTHETIC:
                raise ConfigError("not a condition that is made from real examples", where="--conditions", value=name,
                                  remedy=f"Give some of {', '.join(SYNTHETIC)}.")
        for name, value, least in (("--count", self.count, 1), ("--distractors", self.distractors, 0),
                                   ("--length", self.length, 1)):
            if value is not None and value < least:
                raise ConfigError("too small", where=name, value=value, remedy=f"Give {least} or more.")

    @property
    def writes_needles(self) -> bool:
        return any(map(needs_writer, self.conditions))

    @property
    def needs_pool(self) -> bool:
        return any(name.endswith("_high") for name in self.conditions)

    @property
    def writes_context(self) -> bool:
        return self.distractors > 0 and self.needs_pool

    @property
    def asks(self) -> bool:
        """Whether an endpoint is needed."""
        return self.writes_needles or self.writes_context

    def wanted(self) -> int:
        """Examples to begin with, before any has to be replaced."""
        return min(self.count or len(self.reals), len(self.reals))

    def orders(self, count: int | None = None) -> list[Order]:
        """The texts of the first `count` real examples, or of all, which may have to stand in for failed ones; and
        those of the context."""
        needles = [order for real in self.reals[:count] for order in needle_orders(real, self.control)]
        return needles * self.writes_needles + self.context_orders()

    def context_orders(self) -> list[Order]:
        """The documents of the context that are written."""
        return distractor_orders(self.reals, self.distractors, self.control) if self.writes_context else []


@dataclass
class Outcome:
    """What was made.

    Attributes:
        files: number of examples by file; `ids` has those of the examples.
        dropped, refused: by id why an example was left out, and by text what is wrong with it.
        distractors_dropped: number of documents of the context that were left out, by reason.
        templates: number of statements of concept `low` by the type of their question; `quoting` of them quote it.
        not_searched: how many examples accept an answer that other documents may hold, as it is no answer's text.
    """

    files: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    distractors_dropped: Counter[str] = field(default_factory=Counter)
    templates: Counter[str] = field(default_factory=Counter)
    quoting: int = 0
    ids: list[str] = field(default_factory=list)
    not_searched: dict[str, int] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The outcome for a reader, line by line."""
        for name, n in self.files.items():
            yield f"{name}: {n} examples"
        if self.templates:
            yield (f"low needles: {self.templates.total()} statements, {self.quoting} of which quote their question, "
                   "as no template fits it")
        for reason, n in Counter(self.dropped.values()).most_common():
            yield f"left out {n} because {reason}"
        for place, fault in islice(self.refused.items(), TOLD):
            yield f"refused {place}: {fault}"
        if len(self.refused) > TOLD:
            yield f"refused {len(self.refused) - TOLD} more; all are in {RECORD}"
        for reason, n in self.distractors_dropped.most_common():
            yield f"left out {n} documents of the context because {reason}"
        for answer, n in self.not_searched.items():
            yield f"not looked for elsewhere, as it is not an answer's text: {answer!r}, accepted by {n} examples"


def produce(
    plan: Plan, tokenizer: Any, out: str | Path, client: Client | None = None, *, writer: Writer | None = None,
) -> Outcome:
    """Write `OUT/CONDITION.jsonl.gz` for each condition, all of the same real examples, and `OUT/written.json`.

    Args:
        client: for the conditions with written texts; or
        writer: another source of texts, and examples without theirs are left out of all conditions.

    Raises:
        DataError: fewer examples than `count`; a length that is too short, or a context that cannot be filled. Nothing
            is written then, but what was asked is in the cache.
        EndpointError, ResultError: see `Client`.
    """
    given, out, outcome, prompt_tokens = writer is not None, Path(out), Outcome(), PromptTokens(tokenizer)
    if client is not None:
        writer = EndpointWriter(client, plan.concurrency, plan.attempts)
    needed = plan.writes_needles or given
    written = _needles(plan, prompt_tokens, writer, outcome) if needed else {}
    reals = _enough([real for real in plan.reals if real.id in written] if needed else plan.reals, plan, outcome)
    pool = _pool(plan, tokenizer, writer, outcome) if plan.needs_pool else None
    if given and pool is not None:  # what is left out of `real` too need not end the call
        crowded = {real.id: CROWDED for real in reals if not pool.fills(real, plan.length)}
        outcome.dropped.update(crowded)
        reals = _enough([real for real in reals if real.id not in crowded], plan, outcome)
    outcome.ids = [real.id for real in reals]
    if any(name.startswith("low_") for name in plan.conditions):
        stated = [state_fact(fact.question, fact.answer) for real in reals if not real.cites for fact in real.facts]
        outcome.templates.update(statement.kind for statement in stated)
        outcome.quoting = sum(statement.quotes for statement in stated)
    for condition in plan.conditions:
        examples = make_condition(reals, condition, tokenizer, plan.length, pool=pool, written=written,
                                  prompt_tokens=prompt_tokens)
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
        why = told(Counter(outcome.dropped.values())) or "there are no more real ones"
        raise DataError(
            f"only {len(reals)} examples can be made ({why})", where="--count",
            value=plan.count or "all",
            remedy="Give more real examples or attempts, a better model, or a smaller count.",
        )
    return list(reals[: plan.count])


def _needles(plan: Plan, prompt_tokens: PromptTokens, writer: Writer, outcome: Outcome) -> dict[str, list[Piece]]:
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
            faults = {place: result for place, result in enumerate(results) if isinstance(result, Fault)}
            outcome.refused.update({f"{real.id}, text {place}": fault.told for place, fault in faults.items()})
            if faults:
                outcome.dropped[real.id] = next(iter(faults.values())).reason
                continue
            pieces = [needle_piece(real, index, text) for index, text in enumerate(results)]
            alone, _ = write(real, "", Scene(pieces, (), real.question, real.accepted))
            if prompt_tokens.of(alone) > plan.length:
                outcome.dropped[real.id] = "its documents are longer than the whole length"
            else:
                made[real.id] = pieces
    return made


def _pool(plan: Plan, tokenizer: Any, writer: Writer | None, outcome: Outcome) -> Pool:
    count = token_counter(tokenizer)
    if not plan.writes_context:
        return pool_of_records(plan.reals, count)
    orders = plan.context_orders()
    results = writer.texts(orders)
    outcome.distractors_dropped.update(result.reason for result in results if isinstance(result, Fault))
    return Pool([(one.title, text) for one, text in zip(orders, results, strict=True) if isinstance(text, str)], count)


def estimate(plan: Plan, tokenizer: Any, known: Callable[[Messages], bool]) -> dict[str, int]:
    """What a plan asks of an endpoint at first: `requests`, of which `cached` (those whose messages are `known`), and
    the `tokens_in` and `tokens_out` of the others, in tokens of the given tokenizer (the endpoint's may differ by a
    fifth or so)."""
    orders = plan.orders(plan.wanted())
    fresh = [order for order in orders if not known(order.messages)]
    texts = [message["content"] for order in fresh for message in order.messages]
    return {
        "requests": len(orders), "cached": len(orders) - len(fresh),
        "tokens_in": sum(token_counter(tokenizer)(texts)) + 8 * len(texts) if texts else 0,
        "tokens_out": round(sum(order.wanted.words for order in fresh) * OUTPUT_TOKENS),
    }


def check_places(real: str | Path, out: str | Path) -> None:
    """Raise `ConfigError` where the matching `real` would replace the file that it is made from."""
    if Path(real).resolve().parent == Path(out).resolve():
        raise ConfigError(
            "examples without a usable text are left out of `real` too, and this would replace the file that is read",
            where="--out", value=str(out), remedy="Give another folder.",
        )


def copy_matching(real: str | Path, out: str | Path, ids: Sequence[str]) -> Iterator[str]:
    """Write `real` and `real_short` of the examples with these ids, so that a difference from the conditions is not one
    of questions, `real_limited` of as many, and copy what is held out; each where it lies beside `real`. Yields a line
    on each for the user."""
    real, out = Path(real), Path(out)
    wanted = set(ids)
    ending = "".join(real.suffixes[-2:] if real.suffix == ".gz" else real.suffixes[-1:])
    for name, same in COMPARED.items():
        path = real if name == "real" else real.with_name(f"{name}{ending}")
        if path.is_file():
            examples = iterate_examples(path, limit=None if same else len(ids))
            kept = (one for one in examples if not same or str(one.meta["id"]) in wanted)
            n = write_examples(out / f"{name}{ending}", kept)
            yield (f"{name}{ending}: {n} examples, "
                   f"{'the same questions' if same else 'questions of its own, as many at most'}")
    held_out = sorted((real.parent / HELD_OUT).glob("*.jsonl*"))
    for path in held_out:
        with path.open("rb") as source, writing_whole(out / HELD_OUT / path.name) as target:
            shutil.copyfileobj(source, target)
    if held_out:
        yield f"{HELD_OUT}: {len(held_out)} files copied unchanged"
