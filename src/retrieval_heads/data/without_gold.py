"""The same question without the documents that answer it: what a model knows, or guesses, without reading.

The loss of the gold answer without them less that with them is the gain from context.
"""

from __future__ import annotations

from dataclasses import replace

from retrieval_heads.data.example import Example
from retrieval_heads.data.layout import write_prompt
from retrieval_heads.data.written.real import take_apart


def without_gold(example: Example) -> Example:
    """The example without its gold documents, the others numbered anew; it has no needles.

    Raises:
        DataError: the prompt is not in the layout of documents and a question, or `gold` names no documents of it; no
            document is left.
    """
    real = take_apart(example)
    left = [document for index, document in enumerate(real.documents) if index not in real.gold]
    first = real.documents[0][0]
    prompt, _ = write_prompt(
        [(first + place, title, text) for place, (_, title, text) in enumerate(left)], real.question,
    )
    return replace(example, prompt=real.head + prompt + real.tail, needles=())
