"""Markup of language models in texts: what of it can be cut, and what is left of it.

A model that thinks, or a server that does not remove what ends a turn, gives texts with markup that no reader should
learn from. What is certain is cut: a block of thoughts before the text, the label of the channel or block that the text
stands in, and what ends the turn. Whatever else looks like markup is for the caller to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_NAME = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad)"
_OPENED = (
    rf"<{_NAME}>|\[THINK\]|◁think▷|<\|(?:START_THINKING|begin_of_thought|inner_prefix|thinking|think)\|>"
    r"|<\|channel\|?>\s*(?:analysis|commentary|thought)|<unused94>thought"
)
_CLOSED = (
    rf"</{_NAME}>|\[/THINK\]|◁/think▷|<\|(?:END_THINKING|end_of_thought|inner_suffix|/thinking|/think)\|>"
    r"|<channel\|>|<unused95>"
)
# the labels under which an answer stands after the thoughts, and how it ends
_LABELS = (
    r"<answer>|<response>|<output>|<\|(?:START_RESPONSE|START_TEXT|begin_of_solution|start_header_id)\|>"
    r"|<\|channel\|>\s*final\s*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>"
)
_THOUGHTS = re.compile(rf"(?is).*(?:{_CLOSED})")
_FIRST = re.compile(rf"(?i){_OPENED}")
_FINAL = re.compile(r"(?s).*<\|channel\|>\s*final\s*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>")
_LABEL = re.compile(rf"(?i)\s*(?:{_LABELS})")
_TURN_END = re.compile(
    r"(?i)\s*(?:<\|(?:im_end|eot_id|eom_id|end|endoftext|end_of_text|end_of_turn|return|END_RESPONSE|END_TEXT|"
    r"END_OF_TURN_TOKEN|end_of_solution|assistant_end|user|im_start)\|>|<end_of_turn>|<turn\|>|<eos>|</s>|\[/INST\]|"
    r"\[EOS\]|\[\|endofturn\|\]|<｜end▁of▁sentence｜>|</answer>|</response>|</output>)\s*$"
)
_OPENING = re.compile(rf"(?i)(?:{_OPENED})\s*(?:<\|message\|>\s*)?$")
_BLOCK = re.compile(rf"(?i)(?P<opened>{_OPENED})|{_CLOSED}|{_LABELS}")
_ANY = re.compile(
    rf"(?i){_OPENED}|{_CLOSED}|{_LABELS}|<\|[^|<>\s]{{1,40}}\|?>|<[^|<>\s]{{1,40}}\|>|<｜[^<>]{{1,40}}｜>|<<?/?SYS>>?"
    r"|</?[a-z][\w:|-]{0,40}\s*/?>|&lt;/?[a-z]\w{0,20}&gt;|<0x[0-9a-f]{2}>|<\||\|>|\[e~\[|\]~!?b[\[\]]|\\boxed\{|▁"
    r"|\[unused\d+\]|\[\|[a-z_]{1,20}\|\]|\[gMASK\]|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|"
    r"TOOL_RESULTS|BOS|EOS|PAD|CLS|SEP|MASK|UNK)\]"
)


def own_text(text: str) -> str:
    """A model's text without the thoughts before it, the label that it stands under, and the end of its turn."""
    if final := _FINAL.match(text):
        text = text[final.end() :]
    elif thoughts := _THOUGHTS.match(text):
        first = _FIRST.search(text)
        if first is None or not text[: first.start()].strip():  # else a text goes on around the thoughts
            text = text[thoughts.end() :]
    if label := _LABEL.match(text):
        text = text[label.end() :]
    while end := _TURN_END.search(text):
        text = text[: end.start()]
    return text


def left_markup(text: str, tokens: Iterable[str] = ()) -> str | None:
    """The first markup of any language model in a text, else one of the control tokens `tokens`; None without any."""
    if found := _ANY.search(text):
        return found[0]
    return held_token(text, tokens)


def held_token(text: str, tokens: Iterable[str]) -> str | None:
    """The first of the control tokens that a text holds, which would not be read as text; None without any."""
    return next((token for token in tokens if token in text), None)


def opens_thoughts(prompt: str, last: str = "") -> bool:
    """Whether what follows the prompt would be the model's thoughts: it ends by opening a block of them, or there is
    one open behind `last`, the text of the last message."""
    _, found, behind = prompt.rpartition(last.strip()) if last.strip() else ("", "", "")
    blocks = list(_BLOCK.finditer(behind)) if found else []
    return bool(_OPENING.search(prompt) or (blocks and blocks[-1]["opened"]))


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """The special tokens that a tokenizer finds in a text, by what they are written as, with their ids.

    Left out are the token for unknown text, which no text is written as, and words that are special in name only.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {
        token.content: index for index, token in added.items()
        if token.special and index != tokenizer.unk_token_id and len(token.content) > 2
        and not token.content.replace(" ", "").isalnum()
    }
