"""Texts by a language model: asked for, checked, asked for again with the reason, and given up after some attempts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from tqdm import tqdm

from retrieval_heads.data.written.cache import Reply
from retrieval_heads.data.written.checks import Fault, Wanted, cleaned, find_fault
from retrieval_heads.data.written.client import Client
from retrieval_heads.data.written.messages import Messages, ask_again
from retrieval_heads.errors import ConfigError


@dataclass(frozen=True)
class Order:
    """One text to be written: what is asked, what the answer is checked for, and for needles whose it is: the id of
    the example and the place among its texts."""

    messages: Messages
    wanted: Wanted
    id: str = ""
    place: int = 0


def write_text(client: Client, order: Order, attempts: int) -> str | Fault:
    """The text of an order, or what was wrong with the last attempt.

    Each attempt goes on in the conversation of the one before, so that the writer is told what to mend; and as its
    messages differ, the cache keeps every attempt.
    """
    messages = order.messages
    for left in reversed(range(attempts)):
        reply = client.complete(messages)
        fault = find_fault(reply, order.wanted)
        if fault is None:
            return cleaned(reply.text)
        if left:
            messages = asked_again(messages, reply, fault)
    return fault


def asked_again(messages: Messages, reply: Reply, fault: Fault) -> Messages:
    """The conversation that goes on after a faulty reply; halves of surrogate pairs are sent as question marks."""
    return ask_again(messages, reply.text.encode("utf-8", "replace").decode(), fault.told)


def write_texts(client: Client, orders: Sequence[Order], concurrency: int = 8, attempts: int = 3) -> list[str | Fault]:
    """The texts of all orders, with at most `concurrency` requests at a time.

    On a terminal a line shows how far it is, with tokens and cost. What was answered before an error is in the cache.

    Returns:
        In the order of `orders`: the text, or what was wrong with the last of the attempts.

    Raises:
        ConfigError: `concurrency` or `attempts` below 1.
        EndpointError: the endpoint failed for good; requests that had not begun are not sent.
    """
    for name, value in (("concurrency", concurrency), ("attempts", attempts)):
        if value < 1:
            raise ConfigError("not a count", where=name, value=value, remedy="Give 1 or more.")
    stopped = threading.Event()
    results: list[str | Fault | None] = [None] * len(orders)

    def work(index: int) -> None:
        # futures are cancelled too, but a worker may take one in between
        if not stopped.is_set():
            results[index] = write_text(client, orders[index], attempts)

    with ThreadPoolExecutor(concurrency, thread_name_prefix="write") as pool, tqdm(
        total=len(orders), desc="written", unit="text", disable=not sys.stderr.isatty(), leave=False,
    ) as bar:
        futures = [pool.submit(work, index) for index in range(len(orders))]
        try:
            for future in as_completed(futures):
                future.result()
                bar.set_postfix_str(client.spending.line(), refresh=False)
                bar.update()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results
