"""Plain text of the study's world: documents without any question, for what a model can do without retrieval."""

from __future__ import annotations

from typing import Any

import torch

from retrieval_heads.data.examples import RESERVE, make_examples
from retrieval_heads.data.layout import QUESTION
from retrieval_heads.errors import ConfigError


def plain_text(tokenizer: Any, *, n: int, length: int, seed: int = 0, split: str = "test") -> torch.Tensor:
    """Rows of real documents, cut off where a question would follow.

    No document stands twice in a row. Names that come up again within a row can still be copied, so the loss on such
    text is not free of retrieval; it just does not hang on it.

    Args:
        tokenizer: a fast tokenizer.
        n: rows.
        length: tokens a row.
        seed, split: see `make_examples`.

    Returns:
        int64 `[n, length]`.

    Raises:
        ConfigError: the documents of a row do not fill it.
    """
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
