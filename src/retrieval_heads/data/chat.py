"""How a chat template writes a prompt: its arguments, its clock, what it puts before the answer and behind it.

That a template wrote a prompt is recorded with the example (`Example.chat_template`), as all that follows depends on
it: the template's text has all of its tokens, so that the tokenizer adds none, and the answer ends as a turn does.

A template may ask for the time (`strftime_now`). Then the prompt would be another one each day; so the clock stands at
`CLOCK` unless the argument `strftime_now` gives another time, and is recorded with the other arguments.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from retrieval_heads.data.markup import control_tokens, held_token, opens_thoughts
from retrieval_heads.errors import ConfigError, DataError

CLOCK = "2024-07-26"
"""What a template takes for today: the date that templates of Llama fall back to."""

ASKS = "strftime_now"
"""The function by which a template asks for the time; as an argument it gives the time, as in 2024-07-26."""

_MARK = "Xq7Zk"
"""Stands for an answer while it is found out what a template puts around one."""
_DIRECTIVES = ("-d", "-m", "-H", "-I", "-j", "-y", *"aAbBcdDeFfGgHIjklmMpRsSTuUVwWxXyYzZ", "%")


class Chat(NamedTuple):
    """What a template made of messages: the prompt, the white space before an answer, and `Example.chat_template`."""

    prompt: str
    joint: str
    template: dict[str, Any]


def write_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], arguments: Mapping[str, Any] | None = None,
) -> Chat:
    """The messages as the tokenizer's chat template writes them, given its arguments, JSON values.

    Raises:
        ConfigError: arguments that no template can have, or that this one does not read.
        DataError: no template, one that refuses the messages or has the model think first, a control token in a
            message. It has no `where`.
    """
    if tokenizer is None:
        raise DataError("messages are written out by a tokenizer, and none was given",
                        value=f"{len(messages)} messages",
                        remedy="Pass `tokenizer=`, the one of the model that will read them.")
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("the tokenizer has no chat template to write them out", value=f"{len(messages)} messages",
                        remedy="Give the model whose template it is, or records with `prompt`.")
    arguments = template_arguments(tokenizer, arguments)
    control = control_tokens(tokenizer)
    for message in messages:
        if found := held_token(message["content"], control):
            raise DataError("a message holds a control token of the tokenizer", value=found,
                            remedy="Take it out of the text: the template puts in what the model needs.")
    try:
        prompt = _rendered(tokenizer, messages, arguments, answered=False)
    except Exception as error:  # a template is a program of its own, which raises what it likes
        raise DataError("the chat template refuses them", value=str(error),
                        remedy="Give messages that it takes.") from error
    if not isinstance(prompt, str):
        raise DataError("the chat template writes no text", value=str(type(prompt)), remedy="Use another tokenizer.")
    if opens_thoughts(prompt, messages[-1]["content"] if messages else ""):
        raise DataError(
            "the chat template has the model think before it answers", value=prompt[-40:],
            remedy='Turn it off by a template argument (as {"enable_thinking": false}), or use another template.',
        )
    joint, end = _around_an_answer(tokenizer, messages, prompt, arguments)
    return Chat(prompt, joint, {key: value for key, value in (("arguments", arguments), ("end", end)) if value})


def check_arguments(tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for arguments that the tokenizer's chat template cannot have, or the lack of a template."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("the tokenizer has no chat template", where="template arguments", value=dict(arguments),
                          remedy="Leave them out, or use an instruction-tuned model.")
    template_arguments(tokenizer, arguments)


def turn_end(tokenizer: Any) -> int | None:
    """The token by which the tokenizer's chat template ends a turn; None without a template or such a token."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    question = [{"role": "user", "content": "?"}]
    _, end = _around_an_answer(tokenizer, question, "", template_arguments(tokenizer, None))
    return None if end is None else tokenizer.convert_tokens_to_ids(end)


def template_arguments(tokenizer: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of a template with its clock, if it asks for the time; errors as in `write_chat`."""
    arguments = dict(given or {})
    source = _source(tokenizer, arguments)
    reserved = {*inspect.signature(tokenizer.apply_chat_template).parameters} - {"tools", "documents", "chat_template"}
    for name in arguments:
        problem = "no argument of a template" if name in reserved else "the chat template does not read it"
        if name in reserved or (name != "chat_template" and not re.search(rf"\b{re.escape(name)}\b", source)):
            raise ConfigError(problem, where=f"template argument {name}", value=arguments[name],
                              remedy="Leave it out, or see the template for what it reads.")
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError("not values of JSON", where="template arguments", value=str(error),
                          remedy="Give text, numbers, true, false, null, lists and objects.") from error
    if ASKS in source:
        arguments.setdefault(ASKS, CLOCK)
        _moment(arguments[ASKS])
    return arguments


def _source(tokenizer: Any, arguments: Mapping[str, Any]) -> str:
    """The text of the template that is used: a tokenizer may have several by name."""
    try:
        return str(tokenizer.get_chat_template(arguments.get("chat_template"), arguments.get("tools")))
    except Exception:  # the error comes again, and is told, when the template is used
        return str(tokenizer.chat_template)


def _moment(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ConfigError("no time", where=f"template argument {ASKS}", value=value,
                          remedy=f"Give a date, or a date and a time, as in {CLOCK}T09:30.") from None


def _rendered(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], arguments: Mapping[str, Any], answered: bool,
) -> str:
    extra = dict(arguments)
    if (moment := extra.pop(ASKS, None)) is not None:
        extra["chat_template"] = _clock(_moment(moment)) + _source(tokenizer, arguments)
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=not answered, **extra)


def _clock(moment: datetime) -> str:
    """A `strftime_now` in the template's own language: functions cannot be given to a template."""
    table = {f"%{name}": moment.strftime(f"%{name}") for name in _DIRECTIVES}
    return (
        f"{{%- macro {ASKS}(format) -%}}{{%- set clock = namespace(text=format) -%}}"
        f"{{%- for name, value in {json.dumps(table)}.items() -%}}"
        "{%- set clock.text = clock.text.replace(name, value) -%}{%- endfor -%}{{- clock.text -}}{%- endmacro +%}"
    )


def _around_an_answer(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], prompt: str, arguments: Mapping[str, Any],
) -> tuple[str, str | None]:
    """White space between the prompt and an answer, and the token that ends the answer's turn; None where the template
    has no such token, or takes no answer."""
    try:
        whole = _rendered(tokenizer, [*messages, {"role": "assistant", "content": _MARK}], arguments, answered=True)
        before, _, after = whole.rpartition(_MARK)
    except Exception:  # as above; then the tokenizer's own end is taught
        return "", None
    joint = before.removeprefix(prompt)
    tokens = (token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values())
    ends = [token for token in tokens if token.strip() and after.lstrip().startswith(token)]
    return joint if before.startswith(prompt) and joint.isspace() else "", max(ends, key=len, default=None)
