"""Properties of the loaders over random records, files cut off at any byte, damaged bytes and wrong values."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_samples import mdqa, musique, topic

from retrieval_heads.data.example import Example
from retrieval_heads.data.official import load_mdqa, load_musique, load_summhay
from retrieval_heads.errors import DataError

# the first call of a test may be slow on a busy machine
quick = settings(deadline=None, max_examples=50)

LETTERS = st.one_of(st.sampled_from(" .!?\n\"(é日🙂5aA\u0301\u2028\x1c\t"), st.characters(codec="utf-8"))
TEXT = st.text(LETTERS, max_size=40)
PHRASE = TEXT.map(str.strip).filter(bool)
EXTRA = st.dictionaries(st.text(max_size=4).map("model_{}".format), st.one_of(st.none(), TEXT), max_size=3)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
NEEDLES = st.sampled_from(("sentence", "passage", "answer"))


@st.composite
def shuffled(draw: Callable, record: dict) -> dict:
    """The record with extra keys and its keys in another order."""
    return dict(draw(st.permutations(list((draw(EXTRA) | record).items()))))


@st.composite
def mdqa_records(draw: Callable) -> tuple[dict, int]:
    """A record and the index of its gold passage, which holds the first answer somewhere."""
    answer = draw(PHRASE)
    texts = draw(st.lists(TEXT, max_size=3))
    gold = draw(st.integers(0, len(texts)))
    texts.insert(gold, draw(TEXT) + answer + draw(TEXT))
    passages = [{"title": draw(TEXT), "text": text, "isgold": index == gold} for index, text in enumerate(texts)]
    record = {"question": draw(PHRASE), "answers": [answer], "ctxs": [draw(shuffled(part)) for part in passages]}
    return draw(shuffled(record)), gold


@st.composite
def musique_records(draw: Callable) -> dict:
    answers = draw(st.lists(PHRASE, min_size=2, max_size=4))
    order = draw(st.permutations(range(len(answers) + 2)))
    held = {index: draw(TEXT) + answer + draw(TEXT) for index, answer in zip(order, answers, strict=False)}
    paragraphs = [{"idx": index, "title": "", "paragraph_text": held.get(index, "x")} for index in sorted(order)]
    steps = [{"answer": text, "paragraph_support_idx": index} for index, text in zip(order, answers, strict=False)]
    return draw(shuffled({
        "id": "r", "question": draw(PHRASE), "answer": answers[-1], "answer_aliases": [], "paragraphs": paragraphs,
        "question_decomposition": steps,
    }))


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Example]]:
    """Load from bytes; the file is written anew each time."""
    path: Path = tmp_path_factory.mktemp("official") / "data.jsonl"

    def load_bytes(loader: Callable, content: bytes, **arguments) -> list[Example]:
        path.write_bytes(content)
        return loader(path, **arguments)

    return load_bytes


def lines(records: list[dict], ascii_only: bool = True) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=ascii_only) + "\n" for record in records).encode()


@quick
@given(record=mdqa_records(), needle=NEEDLES, instruction=TEXT, ascii_only=st.booleans())
def test_mdqa_needles_are_where_the_answer_is(load, record: tuple[dict, int], needle: str, instruction: str,
                                              ascii_only: bool):
    row, gold = record
    content = lines([row], ascii_only)
    [example] = load(load_mdqa, content, needle=needle, instruction=instruction)
    answer, text = row["answers"][0], row["ctxs"][gold]["text"]
    assert example.answer == answer
    assert example.meta["gold"] == [gold + 1]
    assert all(answer in needle_text and needle_text in text for needle_text in example.needle_texts())
    if needle == "passage":
        assert example.needle_texts() == (text,)
    if needle == "answer":
        assert set(example.needle_texts()) == {answer}
    if needle == "sentence":
        # the places of the answer are those inside the sentences, in the prompt's own coordinates
        places = load(load_mdqa, content, needle="answer", instruction=instruction)[0].needles
        assert all(any(a <= start and end <= b for a, b in example.needles) for start, end in places)
    packed = load(load_mdqa, gzip.compress(content), needle=needle, instruction=instruction)
    array = load(load_mdqa, json.dumps([row], ensure_ascii=ascii_only).encode(), needle=needle, instruction=instruction)
    assert [example] == packed == array


@quick
@given(record=musique_records(), needle=NEEDLES, n=st.integers(4, 8))
def test_musique_needles_hold_the_answers_of_all_steps(load, record: dict, needle: str, n: int):
    [example] = load(load_musique, lines([record]), needle=needle, n_documents=n)
    texts = example.needle_texts()
    assert all(any(step["answer"] in text for text in texts) for step in record["question_decomposition"])
    assert all(any(text in part["paragraph_text"] for part in record["paragraphs"]) for text in texts)
    assert example.meta["hops"] == len(record["question_decomposition"]) == len(example.meta["gold"])
    assert example.meta["documents"] == min(n, len(record["paragraphs"]))


@quick
@given(texts=st.lists(PHRASE, min_size=2, max_size=8), gold=st.sets(st.integers(0, 7), min_size=1), seed=st.integers(),
       n=st.integers(1, 9))
def test_summhay_cites_the_documents_with_the_insight(load, texts: list[str], gold: set[int], seed: int, n: int):
    documents = [{"document_text": text, "insights_included": ["a"] * (i in gold)} for i, text in enumerate(texts)]
    held = sorted(gold & set(range(len(texts))))
    content = lines([topic(documents=documents)])
    if not 0 < len(held) <= n:
        with pytest.raises(DataError):
            load(load_summhay, content, limit=1, n_documents=n, seed=seed)
        return
    [example] = load(load_summhay, content, limit=1, n_documents=n, seed=seed)
    assert example.needle_texts() == tuple(texts[index] for index in held)
    assert example.answer == ", ".join(map(str, example.meta["gold"]))
    assert example.meta["documents"] == min(n, len(texts))


ONE = {"title": "T", "text": "Is é 🙂.", "isgold": True}
SMALL = {
    "mdqa": (load_mdqa, {"question": "?", "answers": ["é 🙂"], "ctxs": [ONE]}),
    "musique": (load_musique, {
        "id": "r", "question": "?", "answer": "é", "paragraphs": [{"idx": 0, "title": "", "paragraph_text": "Is é."}],
        "question_decomposition": [{"answer": "é", "paragraph_support_idx": 0}],
    }),
    "summhay": (load_summhay, {
        "topic_id": "t", "subtopics": [{"insights": [{"insight_id": "a", "insight": "É"}]}],
        "documents": [{"document_text": "É", "insights_included": ["a"]}],
    }),
}
WRITERS = {
    "lines": lambda records: lines(records, ascii_only=False),
    "packed lines": lambda records: gzip.compress(lines(records)),
    "array": lambda records: json.dumps(records, indent=0, ensure_ascii=False).encode(),
    "packed array": lambda records: gzip.compress(json.dumps(records).encode()),
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("task", SMALL)
def test_file_cut_at_any_byte_gives_a_prefix_or_one_error(load, task: str, form: str):
    loader, record = SMALL[task]
    content = WRITERS[form]([record, record])
    whole = load(loader, content)
    read = set()
    for cut in range(len(content)):
        try:
            examples = load(loader, content[:cut])
        except DataError:
            continue
        assert examples == whole[: len(examples)]
        read.add(len(examples))
    assert len(whole) == 2
    assert read == ({1, 2} if form == "lines" else set())  # without its last line feed the file is whole


def outcome(load: Callable, loader: Callable, content: bytes) -> str:
    """The message of the `DataError`, or nothing when there are examples; any other error gets out."""
    try:
        assert load(loader, content)
    except DataError as error:
        return str(error)
    return ""


@quick
@given(task=st.sampled_from(sorted(SMALL)), form=st.sampled_from(sorted(WRITERS)), data=st.data())
def test_damaged_byte_gives_examples_or_one_error(load, task: str, form: str, data: st.DataObject):
    loader, record = SMALL[task]
    content = bytearray(WRITERS[form]([record] * 2))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    message = outcome(load, loader, bytes(content))
    assert not message or "data.jsonl" in message


SAMPLES = [(load_mdqa, mdqa()), (load_musique, musique()), (load_summhay, topic(subtopics=topic()["subtopics"][:1]))]


@quick
@given(sample=st.sampled_from(SAMPLES), data=st.data())
def test_any_value_in_any_field_gives_examples_or_one_error(load, sample: tuple, data: st.DataObject):
    loader, record = sample
    changed = json.loads(json.dumps(record))
    node = changed
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(JSON)
    message = outcome(load, loader, lines([changed]))
    assert not message or "data.jsonl, line 1" in message
    assert message.encode().decode() == message  # can be printed: no half of a surrogate pair
