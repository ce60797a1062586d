"""Examples for training: `export` those of the study's own tasks, `write` the synthetic conditions of real ones."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

from retrieval_heads import paths
from retrieval_heads.commands import json_object
from retrieval_heads.errors import ConfigError

EXAMPLES = """\
examples:
  python -m retrieval_heads write --real data/mdqa/real.jsonl.gz \\
      --tokenizer MODEL --length 32768 --out data/mdqa \\
      --conditions low_high low_low symbolic
      the conditions that need no language model
  python -m retrieval_heads write --real data/mdqa/real.jsonl.gz \\
      --tokenizer MODEL --length 32768 --out data/mdqa \\
      --endpoint http://localhost:8000/v1 --model NAME --dry-run
      how many requests, tokens and what cost all five conditions would take;
      without --dry-run, make them

  python -m retrieval_heads write --real prepared/mdqa/real.jsonl.gz \\
      --tokenizer MODEL --length 32768 --out data/mdqa --texts passages.jsonl
      with passages that were written elsewhere: JSON Lines with id, fact, text
  python -m retrieval_heads write --real prepared/mdqa/real.jsonl.gz \\
      --tokenizer MODEL --length 32768 --out data/mdqa \\
      --model NAME --batch-out requests.jsonl
      for a batch interface; later the same with --batch-in answers.jsonl

With --texts or --batch-in, examples without a usable text are left out of all
conditions, `real` and `real_short` too: --out is then another folder than that
of --real, and gets what belongs to the study from there.

The key of a service is read from the environment variable OPENAI_API_KEY;
OPENAI_BASE_URL and OPENAI_MODEL stand in for --endpoint and --model. Texts are
kept in the cache: give the same command again to go on after an interruption.
"""
SOURCES = ("texts", "batch_out", "batch_in", "endpoint")
CONDITIONS = ("high_high", "high_low", "low_high", "low_low", "symbolic")
SPLITS = ("train", "probe", "test")


def add_export(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `export` to the command line."""
    from retrieval_heads.data.conditions import CONDITIONS
    from retrieval_heads.data.example import TASKS

    parser = verbs.add_parser("export", help="write examples of the study's own tasks as JSON Lines")
    parser.add_argument("--task", required=True, choices=TASKS, help="which task")
    parser.add_argument("--condition", required=True, metavar="NAME", help=f"one of {', '.join(CONDITIONS)}")
    parser.add_argument("--length", required=True, type=int, help="most tokens of an example")
    parser.add_argument("--n", required=True, type=int, help="number of examples")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other examples")
    parser.add_argument("--split", default="train", choices=SPLITS, help="no two splits share a name")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="the model whose tokens are counted (default: "
                        "the embedded one)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".jsonl, or .jsonl.gz to compress it")
    parser.set_defaults(function=_export)


def _export(parsed: argparse.Namespace) -> None:
    from retrieval_heads.data.examples import make_examples
    from retrieval_heads.data.jsonl import write_examples
    from retrieval_heads.data.tokenizer import load_tokenizer

    if parsed.n < 1:
        raise ConfigError("not a number of examples", where="--n", value=parsed.n, remedy="Give 1 or more.")
    examples = make_examples(
        task=parsed.task, condition=parsed.condition, length=parsed.length, n=parsed.n, seed=parsed.seed,
        split=parsed.split, tokenizer=load_tokenizer(Path(parsed.tokenizer)) if parsed.tokenizer else None,
    )
    print(f"{parsed.out}: {write_examples(parsed.out, examples)} examples")


def add_write(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `write` to the command line."""
    parser = verbs.add_parser(
        "write", help="make the synthetic conditions of a file of real training examples", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--real", required=True, metavar="FILE", help="real training examples, JSON Lines")
    parser.add_argument("--tokenizer", required=True, metavar="MODEL", help="the model to be trained: folder or hub id")
    parser.add_argument("--length", required=True, type=int, metavar="L", help="most tokens per example")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="files go to FOLDER/CONDITION.jsonl.gz")
    parser.add_argument("--conditions", nargs="+", default=list(CONDITIONS), metavar="NAME",
                        help=f"some of {', '.join(CONDITIONS)}; all by default")
    parser.add_argument("--count", type=int, metavar="N", help="examples per condition; later ones replace failed ones")
    parser.add_argument("--limit", type=int, metavar="N", help="read only the first N real examples")
    parser.add_argument("--distractors", type=int, default=0, metavar="N",
                        help="request N written documents for the context `high`; 0 takes those of other real examples")
    parser.add_argument("--texts", metavar="FILE", help="passages: JSON Lines with `id`, `fact` (from 0) and `text`")
    parser.add_argument("--batch-out", metavar="FILE", help="write the requests for a batch interface, and stop")
    parser.add_argument("--batch-in", metavar="FILE", nargs="+", help="answers of the batch interface, in any order")
    parser.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible endpoint, such as http://localhost:8000/v1")
    parser.add_argument("--model", metavar="NAME", help="the model's name at the endpoint")
    parser.add_argument("--parameters", metavar="JSON", default="{}",
                        help='sent with each request, over {"temperature": 0.7, "max_tokens": 2048}; null omits one. '
                        'Parameters that only the server knows go into "extra_body", such as '
                        '{"extra_body": {"chat_template_kwargs": {"enable_thinking": false}}}')
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests at a time (8)")
    parser.add_argument("--attempts", type=int, default=3, metavar="N", help="how often a text is requested (3)")
    parser.add_argument("--timeout", type=float, default=300, metavar="S", help="seconds for one answer (300)")
    parser.add_argument("--cache", metavar="FOLDER", help="folder of the texts already received (OUT/written_cache)")
    parser.add_argument("--price-in", type=float, metavar="X", help="price of a million tokens sent")
    parser.add_argument("--price-out", type=float, metavar="X", help="price of a million tokens received")
    parser.add_argument("--dry-run", action="store_true", help="count requests and tokens; send nothing")
    parser.set_defaults(function=_write)


def _write(parsed: argparse.Namespace) -> None:
    from retrieval_heads.data.markup import control_tokens
    from retrieval_heads.data.written.cache import Cache, Spending
    from retrieval_heads.data.written.client import Client, find_endpoint
    from retrieval_heads.data.written.production import Plan, check_places, copy_matching, produce
    from retrieval_heads.data.written.real import read_real

    parameters = _parameters(parsed.parameters)
    sources = {f"--{name.replace('_', '-')}": getattr(parsed, name) for name in SOURCES}
    if len(given := [name for name, value in sources.items() if value]) > 1:
        raise ConfigError("texts come from one place", where=" and ".join(given), value=[sources[one] for one in given],
                          remedy="Give one of them.")
    if parsed.texts or parsed.batch_in:
        check_places(parsed.real, parsed.out)
    tokenizer = _tokenizer(parsed.tokenizer)
    plan = Plan(
        read_real(parsed.real, parsed.limit), parsed.conditions, parsed.length, parsed.count, parsed.distractors,
        parsed.concurrency, parsed.attempts, tuple(control_tokens(tokenizer)),
    )
    spending = Spending(parsed.price_in, parsed.price_out)
    cache = Cache(parsed.cache or Path(parsed.out) / "written_cache")
    if parsed.batch_out:
        n = _batch(cache, parsed, parameters).write_requests(parsed.batch_out, plan.orders())
        print(f"{parsed.batch_out}: {n} requests; give the answers by --batch-in" if n else
              "there is nothing to ask: each text is there, or was asked for --attempts times")
        return
    if parsed.dry_run:
        _estimate(plan, tokenizer, cache, spending, parsed.model, parameters)
        return
    writer, client = _given(plan, cache, parsed, parameters), None
    if writer is None and plan.asks:
        endpoint = find_endpoint(parsed.endpoint, parsed.model, parameters=parameters, timeout=parsed.timeout)
        client = Client(endpoint, cache, spending)
    try:
        outcome = produce(plan, tokenizer, parsed.out, client, writer=writer)
    finally:
        if client is not None:
            client.close()
            print(spending.line() + (f"; {cache.damaged} damaged cache entries" if cache.damaged else ""), flush=True)
    if parsed.texts and writer.unused:
        print(f"{writer.unused} texts of {parsed.texts} belong to no example that was asked for")
    copied = copy_matching(parsed.real, parsed.out, outcome.ids) if writer is not None else ()
    for line in chain(outcome.lines(), copied):
        print(line)
    print(f"written to {paths.shown(Path(parsed.out).absolute())}")


def _given(plan: Any, cache: Any, parsed: argparse.Namespace, parameters: dict[str, Any]) -> Any:
    """The source of texts that exist already; None if an endpoint has to write them."""
    from retrieval_heads.data.written.writers import GivenTexts

    if parsed.texts:
        if plan.writes_context:
            raise ConfigError("the texts of a file are needles", where="--distractors", value=plan.distractors,
                              remedy="Leave it out; the context is then made of other real examples.")
        return GivenTexts(parsed.texts)
    if not parsed.batch_in:
        return None
    batch = _batch(cache, parsed, parameters)
    print(f"{batch.read_answers(parsed.batch_in, plan.orders())} answers")
    for line in batch.failed:
        print(f"no answer: {line}")
    return batch


def _batch(cache: Any, parsed: argparse.Namespace, parameters: dict[str, Any]) -> Any:
    from retrieval_heads.data.written.client import known_model
    from retrieval_heads.data.written.writers import Batch

    name = known_model(parsed.model)
    if not name:
        raise ConfigError("no model", where="--model", value=name, remedy="Give the name that the service knows it by.")
    return Batch(cache, name, parameters, parsed.attempts)


def _estimate(plan: Any, tokenizer: Any, cache: Any, spending: Any, model: str | None, parameters: dict) -> None:
    from retrieval_heads.data.written.cache import request_key
    from retrieval_heads.data.written.client import known_model
    from retrieval_heads.data.written.production import estimate

    name = known_model(model)
    found = estimate(plan, tokenizer, lambda messages: cache.get(request_key(name, messages, parameters)) is not None)
    spending.requests, spending.cached = found["requests"] - found["cached"], found["cached"]
    spending.tokens_in, spending.tokens_out = found["tokens_in"], found["tokens_out"]
    print(f"{plan.wanted()} examples of {', '.join(plan.conditions)}: {spending.line()}")
    print(f"a text that fails is asked again, up to {plan.attempts} times in all; nothing was sent")


def _parameters(text: str) -> dict[str, Any]:
    from retrieval_heads.data.written.client import PARAMETERS, check_parameters

    given = json_object("--parameters", text, '{"temperature": 0.3}')
    parameters = {key: value for key, value in (PARAMETERS | given).items() if value is not None}
    check_parameters(parameters)
    return parameters


def _tokenizer(model: str) -> Any:
    from retrieval_heads.data.tokenizer import load_tokenizer

    folder = Path(paths.resolve_model(model))
    if not folder.is_dir():
        from retrieval_heads.models.load import model_folder  # brings all that models need

        folder = model_folder(model)
    return load_tokenizer(folder)
