"""What stands around the documents of a prompt, and how many tokens all of it is.

The frame is the instruction line, the question and, with `chat`, the model's own chat template, into which the whole
prompt goes as one message of the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from retrieval_heads.data.chat import template_arguments, write_chat
from retrieval_heads.data.encode import encode
from retrieval_heads.data.example import Example
from retrieval_heads.data.official.pool import Text
from retrieval_heads.errors import ConfigError, DataError, ModelError

_NUMBER = 100
"""Documents are counted with this number: one of three digits, as most have in a long prompt."""


@dataclass(frozen=True)
class Frame:
    """How prompts are written and counted.

    Attributes:
        tokenizer: a fast one, of the model that will read the examples.
        instruction: a line before the documents; none when empty.
        chat: whether the prompt is wrapped by the tokenizer's chat template, with its generation prompt.
        template_arguments: what the template is told.

    Raises:
        ModelError: no offsets, or `chat` without a chat template.
        ConfigError: arguments that the template does not read, or without `chat`.
    """

    tokenizer: Any
    instruction: str = ""
    chat: bool = False
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    _counts: dict[Text, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = type(self.tokenizer).__name__
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(
                "the tokenizer gives no character offsets", where=name,
                remedy="Use a fast tokenizer (a folder with tokenizer.json).",
            )
        if self.chat and not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                "the tokenizer has no chat template", where=name,
                remedy="Put a chat_template.jinja into its folder, use an instruction-tuned one, or leave chat out.",
            )
        if self.template_arguments and not self.chat:
            raise ConfigError("there is no template to be told anything", where="template arguments",
                              value=dict(self.template_arguments), remedy="Give --chat too, or leave them out.")
        if self.chat:
            told = template_arguments(self.tokenizer, self.template_arguments)
            object.__setattr__(self, "template_arguments", told)

    def count(self, documents: Sequence[Text]) -> list[int]:
        """Tokens of each document with its heading and the blank line after it; each is counted once and remembered."""
        new = [document for document in dict.fromkeys(documents) if document not in self._counts]
        if new:
            texts = [f"Document {_NUMBER}: {title}".rstrip(" ") + f"\n{text}\n\n" for title, text in new]
            ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            self._counts.update(zip(new, map(len, ids), strict=True))
        return [self._counts[document] for document in documents]

    def finish(self, example: Example) -> tuple[Example, int]:
        """The example as the model reads it, and its tokens: prompt, answer and end of sequence.

        Raises:
            DataError: the template changes the prompt, or the tokenizer cannot write the example (`encode`).
        """
        finished = wrap(example, self.tokenizer, self.template_arguments) if self.chat else example
        return finished, len(encode(finished, self.tokenizer).ids)


def wrap(example: Example, tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> Example:
    """The example with its prompt as one user message in the tokenizer's chat template, needles moved along.

    The answer then follows the template's generation prompt with the white space that the template puts there.

    Raises:
        DataError: the template refuses the message, or does not hold it letter for letter exactly once.
    """
    where = f"example {example.meta.get('id', '')}".strip()
    try:
        text, joint, template = write_chat(tokenizer, [{"role": "user", "content": example.prompt}], arguments)
    except DataError as error:
        raise DataError(error.problem, where=where, value=error.value, remedy=error.remedy) from error
    if text.count(example.prompt) != 1:
        raise DataError(
            "the chat template changes the prompt, so that needles cannot be placed in it", where=where,
            value=text[:80], remedy="Use an instruction without white space around it, or leave chat out.",
        )
    start = text.index(example.prompt)
    wrapped = replace(
        example, prompt=text, joint=joint, chat_template=template,
        needles=tuple((start + first, start + last) for first, last in example.needles),
    )
    assert wrapped.needle_texts() == example.needle_texts()
    return wrapped
