"""The file format of examples: JSON Lines, one object per example, for any task.

    {"prompt": "Document 1: ...\\n\\nQuestion: ...\\nAnswer:", "answer": "42", "needles": ["The answer is 42."]}
    {"messages": [{"role": "user", "content": "..."}], "answer": "42", "needles": ["The answer is 42."]}

| key | value |
|---|---|
| `prompt` | text before the answer, as the model reads it |
| `messages` | instead of `prompt`: chat messages, written out by the chat template of the model's tokenizer |
| `answer` or `answers` | the reference answer, or all accepted ones, the reference first; both may be given |
| `needles` | texts that stand in the prompt exactly once, or character spans `[start, end]` into `prompt` |
| `task` | decides the metrics: `mdqa`, `musique`, `summhay`, or a name of one's own (scored as `mdqa`) |
| `joint` | what stands between prompt and answer; a space, and with `messages` what the template puts there |
| `chat_template` | an object: a chat template wrote `prompt`, or is to write `messages`, with these `arguments` |

All other keys go to `Example.meta`. Lines are read one at a time; files may be gzipped. `SCHEMA` is a JSON schema of a
line; what it cannot say (needles stand in the prompt) is checked here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from retrieval_heads.data.chat import Chat, write_chat
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.official.records import Record, described, each_record, read_records
from retrieval_heads.errors import ConfigError, DataError, StudyError
from retrieval_heads.files import writing_whole

SCHEMA = Path(__file__).with_name("example.schema.json")
KEYS = ("prompt", "messages", "answer", "answers", "needles", "task", "joint", "chat_template")


def read_examples(
    path: str | Path, task: str | None = None, limit: int | None = None, tokenizer: Any = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> list[Example]:
    """Read a file of examples.

    Args:
        path: JSON Lines as `SCHEMA` describes them, compressed or not.
        task: stands in for a record's missing `task`; None for the file's name without its endings.
        limit: read only the first `limit` records.
        tokenizer: one with a chat template, for records with `messages`.
        template_arguments: arguments for that template, such as `{"enable_thinking": False}`, beside those that
            the tokenizer was loaded with; a record's own take precedence.

    Returns:
        Examples; `meta` has the record's other keys, `id` (file and line if it has none), `file` and `line`.

    Raises:
        DataError: a file that cannot be read, or a record that is not an example: names file, line, key and value.
        ConfigError: `template_arguments` that the template does not read.
    """
    return list(iterate_examples(path, task, limit, tokenizer, template_arguments))


def iterate_examples(
    path: str | Path, task: str | None = None, limit: int | None = None, tokenizer: Any = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> Iterator[Example]:
    """`read_examples`, one example at a time: those before a broken line are handed out."""
    for record in read_records(path, limit):
        yield _example(record, task, tokenizer, template_arguments)


def each_example(path: str | Path, tokenizer: Any = None) -> Iterator[Example | DataError]:
    """The examples of a whole file, one at a time, and in the place of each broken record its error."""
    for record in each_record(path):
        try:
            yield record if isinstance(record, DataError) else _example(record, None, tokenizer, None)
        except DataError as error:
            yield error


def _example(
    record: Record, task: str | None, tokenizer: Any, template_arguments: Mapping[str, Any] | None,
) -> Example:
    """The example of one record; raises `DataError` naming file, line, key and value."""
    data = record.data
    if ("prompt" in data) == ("messages" in data):
        _refuse(record, "prompt", sorted(set(data) & set(KEYS)), "needs either `prompt` or `messages`",
                "Give the text before the answer as `prompt`, or chat `messages`.")
    answers = _answers(record)
    template = _template(record)
    if "messages" in data:
        given = {**getattr(tokenizer, "template_arguments", {}), **(template_arguments or {})}
        chat = _written_out(record, tokenizer, given, (template or {}).get("arguments", {}))
        prompt, joint, template = chat.prompt, chat.joint, {**chat.template, **_end(template)}
    else:
        prompt, joint = _text(record, "prompt", data["prompt"]), " "
    joint = _text(record, "joint", data.get("joint", joint))
    task = _text(record, "task", data.get("task", task or record.path.name.split(".")[0] or "own"))
    needles = tuple(_span(record, place, needle, prompt) for place, needle in enumerate(_list(record, "needles")))
    more = {key: value for key, value in data.items() if key not in KEYS}
    meta = {"id": f"{record.path.name}:{record.line}", **more, "file": record.path.name, "line": record.line}
    try:
        return Example(task, prompt, answers[0], answers, tuple(sorted(needles)), meta, joint, template)
    except DataError as error:
        raise DataError(error.problem, where=record.where, value=error.value, remedy=error.remedy) from error


def scorable(example: Example) -> Example:
    """The example as it was read; `DataError` naming file and line where the metrics of its task cannot score it."""
    try:
        task_of(example.task).score("", example.answers)
    except DataError as error:
        where = f"{example.place}, key {error.where}"
        raise DataError(error.problem, where=where, value=error.value, remedy=error.remedy) from error
    return example


def write_examples(path: str | Path, examples: Iterable[Example]) -> int:
    """Write examples in the format that `read_examples` reads, one at a time; `.gz` compresses them. Returns how many.

    The file appears whole or not at all, even when the iterable raises. The same examples give the same bytes. Reading
    it back gives equal examples except for `file` and `line` in `meta`, which say where each was read.

    Raises:
        ResultError: the place cannot be written to.
    """
    path, count = Path(path), 0
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(writing_whole(path))
        if path.suffix == ".gz":  # neither name nor time go into the packed file
            file = stack.enter_context(gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0))
        for example in examples:
            file.write(_line(example))
            count += 1
    return count


def _line(example: Example) -> bytes:
    meta = {key: value for key, value in example.meta.items() if key not in ("file", "line", *KEYS)}
    record = {
        "task": example.task, "prompt": example.prompt, "answer": example.answer, "answers": example.answers,
        "needles": example.needles, "joint": example.joint,
        **({} if example.chat_template is None else {"chat_template": dict(example.chat_template)}), **meta,
    }
    try:
        return f"{json.dumps(record, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:  # half of a surrogate pair in `meta`, which JSON can hold in its escaped form only
        return f"{json.dumps(record)}\n".encode()


def _answers(record: Record) -> tuple[str, ...]:
    given = [_text(record, f"answers[{place}]", one) for place, one in enumerate(_list(record, "answers"))]
    if "answer" in record.data:
        given = [_text(record, "answer", record.data["answer"]), *given]
    if not given:
        _refuse(record, "answer", None, "the record has no answer", "Give `answer`, or `answers` with one or more.")
    return tuple(dict.fromkeys(given))


def _written_out(record: Record, tokenizer: Any, given: Mapping[str, Any], own: Mapping[str, Any]) -> Chat:
    messages = _list(record, "messages")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            _refuse(record, f"messages[{place}]", described(message), "no chat message",
                    "A message has `role` and `content`, both text.")
    try:
        chat = write_chat(tokenizer, messages, {**given, **own})
    except StudyError as error:
        if isinstance(error, ConfigError) and not own:  # it is the call that is wrong, and not this record
            raise
        _refuse(record, "messages" if isinstance(error, DataError) else "chat_template", error.value, error.problem,
                error.remedy)
    _text(record, "messages", chat.prompt)
    return chat


def _template(record: Record) -> dict[str, Any] | None:
    """What a record says of its template; the texts in it are looked at where they are used."""
    template = record.data.get("chat_template")
    if template is None:
        return None
    sound = isinstance(template, dict) and set(template) <= {"arguments", "end"}
    if not sound or not isinstance(template.get("arguments", {}), dict):
        _refuse(record, "chat_template", described(template), "no object with `arguments` or `end`",
                "Give {} where nothing is known but that a chat template wrote the prompt.")
    for text in _end(template).values():
        _text(record, "chat_template.end", text)
    return template


def _end(template: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"end": template["end"]} if template and "end" in template else {}


def _span(record: Record, place: int, needle: Any, prompt: str) -> tuple[int, int]:
    key = f"needles[{place}]"
    if isinstance(needle, list):
        if len(needle) != 2 or not all(type(bound) is int for bound in needle):
            _refuse(record, key, described(needle), "the needle is not a span",
                    "Give two whole numbers, or the needle's text.")
        if "messages" in record.data:
            _refuse(record, key, needle, "spans count from the start of `prompt`, which messages have not",
                    "Give the needle's text.")
        return needle[0], needle[1]
    text = _text(record, key, needle)
    start = prompt.find(text) if text else -1
    again = start >= 0 and prompt.find(text, start + 1) >= 0  # also where the two overlap
    if start < 0 or again:
        problem = "the needle stands in the prompt more than once" if again else "the needle is not in the prompt"
        _refuse(record, key, text, problem, "Give a text that stands there once, letter for letter, or a span "
                "`[start, end]` of character offsets.")
    return start, start + len(text)


def _list(record: Record, key: str) -> list[Any]:
    value = record.data.get(key, [])
    if not isinstance(value, list):
        _refuse(record, key, described(value), f"`{key}` is not a list", f"Give `{key}` as a JSON list.")
    return value


def _text(record: Record, key: str, value: Any) -> str:
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):  # no string, or half of a surrogate pair
        _refuse(record, key, described(value), f"`{key}` is not a text", f"Give `{key}` as a JSON string.")
    return value


def _refuse(record: Record, key: str, value: Any, problem: str, remedy: str) -> None:
    raise DataError(problem, where=f"{record.where}, key {key}", value=value, remedy=remedy)
