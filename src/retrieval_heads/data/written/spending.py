"""What the answers of an endpoint cost: requests, tokens and, where prices are known, money."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Spending:
    """A count that several threads add to.

    Attributes:
        price_in: price of a million tokens sent, in any currency; None when unknown.
        price_out: price of a million tokens received.
        requests: answers that the endpoint gave in this run.
        cached: answers that were there from an earlier run.
        tokens_in: tokens sent in this run, as far as the endpoint says.
        tokens_out: tokens received.
        unreported: answers without a token count.
    """

    price_in: float | None = None
    price_out: float | None = None
    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    unreported: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, tokens_in: int | None, tokens_out: int | None) -> None:
        """Count an answer of the endpoint."""
        with self._lock:
            self.requests += 1
            self.tokens_in += tokens_in or 0
            self.tokens_out += tokens_out or 0
            self.unreported += tokens_in is None or tokens_out is None

    def add_cached(self) -> None:
        """Count an answer that cost nothing."""
        with self._lock:
            self.cached += 1

    def cost(self) -> float | None:
        """Tokens times prices, in the currency of the prices; None unless both are known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (self.tokens_in * self.price_in + self.tokens_out * self.price_out) / 1e6

    def line(self) -> str:
        """The count in a line: `12 requests, 3 from the cache, 4,567 tokens in, 890 out, cost 0.0123`."""
        text = (
            f"{self.requests:,} requests, {self.cached:,} from the cache, {self.tokens_in:,} tokens in, "
            f"{self.tokens_out:,} out"
        )
        if self.unreported:
            text += f" ({self.unreported:,} answers without a count)"
        cost = self.cost()
        return text if cost is None else f"{text}, cost {cost:.4f}"
