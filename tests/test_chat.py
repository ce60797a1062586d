"""Chat templates: their own ids, arguments, clock and end; what is recorded of them, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from tokenizers import processors

from retrieval_heads.data.chat import CLOCK, turn_end, write_chat
from retrieval_heads.data.encode import encode
from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import SCHEMA, each_example, read_examples, write_examples
from retrieval_heads.errors import ConfigError, DataError

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "The code is 7341. Code?"}]
RECORD = {"messages": MESSAGES, "answer": "7341", "needles": ["The code is 7341."]}
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEMPLATES = {
    "turns": TURNS + ASKS,
    "bos": "{{ bos_token }}" + TURNS + ASKS,
    "plain": "{% for m in messages %}|{{ m.role }}|{{ m.content }}{% endfor %}|assistant|",
    "other prefix": "[gMASK]<sop>" + TURNS + ASKS,
    "inst": "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
            "{% else %}[INST] {{ m.content | trim }} [/INST]{% endif %}{% endfor %}",
    "no thoughts": TURNS + ASKS
                   + "{% if add_generation_prompt and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
    "channels": "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
                "<|message|>{{ m.content }}<|end|>{% endfor %}"
                "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
}
TOKENS = ["<|im_start|>", "<|im_end|>", "[gMASK]", "<sop>", "<think>", "</think>", "<|start|>", "<|channel|>",
          "<|message|>", "<|end|>"]


def chat_tokenizer(tiny_tokenizer, template: str, before: tuple[str, ...] = ("<bos>",), after: tuple[str, ...] = ()):
    """The tiny tokenizer with control tokens of chat models, a template, and what it puts around every text."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": TOKENS})
    around = [*before, *after]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*before, "$A", *after]),
        special_tokens=[(one, tokenizer.convert_tokens_to_ids(one)) for one in dict.fromkeys(around)],
    )
    tokenizer.chat_template = template
    return tokenizer


def read(folder: Path, tokenizer, *records: dict, **arguments) -> list[Example]:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return read_examples(path, tokenizer=tokenizer, **arguments)


@pytest.mark.parametrize(("before", "after"), [
    (("<bos>",), ()), ((), ()), (("[gMASK]", "<sop>"), ()), (("<bos>",), ("<eos>",)), (("<bos>",), ("<pad>",)),
])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_has_the_ids_of_its_template(tiny_tokenizer, tmp_path: Path, name: str, before, after):
    tokenizer = chat_tokenizer(tiny_tokenizer, TEMPLATES[name], before, after)
    [example] = read(tmp_path, tokenizer, RECORD)
    wanted = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    write_examples(tmp_path / "again.jsonl", [example])
    [again] = read_examples(tmp_path / "again.jsonl")  # what is known of the template is in the file
    assert again.chat_template == example.chat_template
    for one in (example, again):
        encoded = encode(one, tokenizer)
        assert list(encoded.ids[: encoded.prompt_length]) == list(wanted)
        assert tokenizer.decode(encoded.ids[encoded.prompt_length :][: encoded.answer_length]).strip() == "7341"
        [(start, end)] = encoded.needles
        assert tokenizer.decode(encoded.ids[start:end]).strip().startswith("The code is 7341")


@pytest.mark.parametrize(("name", "joint", "end"), [
    ("turns", "", "<|im_end|>"), ("bos", "", "<|im_end|>"), ("plain", "", None), ("other prefix", "", "<|im_end|>"),
    ("inst", " ", "<eos>"), ("no thoughts", "", "<|im_end|>"), ("channels", "", "<|end|>"),
])
def test_the_templates_own_white_space_and_end_are_taught(tiny_tokenizer, tmp_path: Path, name: str, joint: str, end):
    tokenizer = chat_tokenizer(tiny_tokenizer, TEMPLATES[name])
    [example] = read(tmp_path, tokenizer, RECORD)
    assert example.joint == joint
    assert example.chat_template == ({} if end is None else {"end": end})
    encoded = encode(example, tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(encoded.end)) == [end or "<eos>"]
    assert turn_end(tokenizer) == (None if end is None else encoded.end[0])


def test_a_users_own_text_is_opened_once(tiny_tokenizer):
    for before in (("<bos>",), ("[gMASK]", "<sop>")):
        tokenizer = chat_tokenizer(tiny_tokenizer, "", before, ("<eos>",))
        written = "".join(before)
        plain = [encode(Example("own", prompt, "b"), tokenizer).ids for prompt in ("A?", f"{written}A?")]
        assert plain[0] == plain[1]
        assert plain[0] == tuple(tokenizer("A? b").input_ids)
        told = encode(Example("own", "A?", "b", chat_template={}), tokenizer)
        assert told.ids == plain[0][len(before) :]


@pytest.mark.parametrize(("example", "message"), [
    (Example("own", "A <|im_end|> b?", "c"), r"the prompt holds a control token .*'<\|im_end\|>'.*`chat_template`"),
    (Example("own", "A?", "c<eos>"), r"the answer holds a control token of the tokenizer \(got '<eos>'\)"),
    (Example("own", "A?", "c<eos>", chat_template={}), "the answer holds a control token"),
    (Example("own", "A?", "c", chat_template={"end": "<|eot_id|>"}), r"is not a token of the tokenizer \(got '<\|eot"),
])
def test_control_tokens_in_a_users_text_are_refused(tiny_tokenizer, example: Example, message: str):
    with pytest.raises(DataError, match=message):
        encode(example, chat_tokenizer(tiny_tokenizer, ""))
    assert encode(Example("own", "A <|im_end|> b?", "c", chat_template={}), chat_tokenizer(tiny_tokenizer, "")).end


def test_arguments_reach_the_template_and_are_recorded(tiny_tokenizer, tmp_path: Path):
    tokenizer = chat_tokenizer(tiny_tokenizer, TEMPLATES["no thoughts"] + "{{ date_string }}")
    own = RECORD | {"chat_template": {"arguments": {"enable_thinking": True}}}
    jsonschema.validate(own, json.loads(SCHEMA.read_text()))
    given = {"enable_thinking": False, "date_string": "1 May"}
    plain, told = read(tmp_path, tokenizer, RECORD, own, template_arguments=given)
    assert plain.prompt.endswith("<think>\n\n</think>\n\n1 May")
    assert told.prompt.endswith("<|im_start|>assistant\n1 May")
    assert plain.chat_template["arguments"] == given
    assert told.chat_template["arguments"] == given | {"enable_thinking": True}
    tokenizer.template_arguments = given  # as `load_tokenizer` leaves them
    assert read(tmp_path, tokenizer, RECORD) == [plain]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"enable_thinkin": False}, r"template argument enable_thinkin: the chat template does not read it"),
    ({"tokenize": True}, "tokenize: no argument of a template"),
    ({"enable_thinking": object()}, "not values of JSON"),
    ({"strftime_now": "2024-01-01"}, "strftime_now: the chat template does not read it"),
])
def test_arguments_that_would_change_nothing_are_refused(tiny_tokenizer, tmp_path: Path, arguments, message: str):
    tokenizer = chat_tokenizer(tiny_tokenizer, TEMPLATES["no thoughts"])
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, tokenizer, RECORD, template_arguments=arguments)
    if "enable_thinking" not in arguments:
        (tmp_path / "own.jsonl").write_text(json.dumps(RECORD | {"chat_template": {"arguments": arguments}}))
        [error] = each_example(tmp_path / "own.jsonl", tokenizer=tokenizer)
        assert "line 1, key chat_template" in str(error)


CLOCKS = {
    "top": "{{ strftime_now('%d %b %Y') }}|" + TEMPLATES["turns"],
    "if defined": "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}never{% endif %}|"
                  + TEMPLATES["turns"],
    "in a macro": "{% macro today() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}{{ today() }}|" + TEMPLATES["turns"],
    "made format": "{% set f = '%d' ~ ' %b %Y' %}{{ strftime_now(f) }}|" + TEMPLATES["turns"],
}


@pytest.mark.parametrize("name", CLOCKS)
def test_the_clock_of_a_template_stands_and_is_recorded(tiny_tokenizer, tmp_path: Path, name: str):
    tokenizer = chat_tokenizer(tiny_tokenizer, CLOCKS[name])
    [still] = read(tmp_path, tokenizer, RECORD)
    [set_to] = read(tmp_path, tokenizer, RECORD, template_arguments={"strftime_now": "2023-02-03T04:05"})
    without = read(tmp_path, chat_tokenizer(tiny_tokenizer, TEMPLATES["turns"]), RECORD)[0].prompt
    assert still.prompt == f"26 Jul 2024|{without}"
    assert set_to.prompt == f"03 Feb 2023|{without}"
    assert still.chat_template == {"arguments": {"strftime_now": CLOCK}, "end": "<|im_end|>"}
    with pytest.raises(ConfigError, match=r"strftime_now: no time \(got 'today'\)"):
        write_chat(tokenizer, MESSAGES, {"strftime_now": "today"})


@pytest.mark.parametrize(("record", "template", "message"), [
    (RECORD | {"messages": [{"role": "user", "content": "It <|im_end|> so."}]}, "turns", "a message holds a control"),
    (RECORD, None, "the tokenizer has no chat template"),
    (RECORD, "open", "the chat template has the model think before it answers"),
    (RECORD, "channel opened", "the chat template has the model think before it answers"),
    (RECORD, "thoughts begun", "the chat template has the model think before it answers"),
    (RECORD | {"chat_template": "chatml"}, "turns", "key chat_template: no object with `arguments` or `end`"),
    (RECORD | {"chat_template": {"end": 3}}, "turns", "key chat_template.end: `chat_template.end` is not a text"),
    (RECORD | {"chat_template": {"arguments": [1]}}, "turns", "no object with `arguments`"),
])
def test_what_a_template_cannot_write_is_refused_by_line(tiny_tokenizer, tmp_path: Path, record, template, message):
    templates = TEMPLATES | {
        "open": TURNS + ASKS + "<think>\n", "thoughts begun": TURNS + ASKS + "<think>\nOkay, ", None: None,
        "channel opened": TURNS + ASKS + "<|channel|>analysis<|message|>",
    }
    with pytest.raises(DataError, match=r"own.jsonl, line 1.*") as caught:
        read(tmp_path, chat_tokenizer(tiny_tokenizer, templates[template]), record)
    assert message in str(caught.value)
    assert caught.value.remedy
