"""Records at length: token budget, depths, needles, and that no added document holds an answer."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from made_official import save_official

from retrieval_heads import paths
from retrieval_heads.data.encode import encode
from retrieval_heads.data.official.answers import Forbidden
from retrieval_heads.data.official.formats import Source, UnusableRecordError
from retrieval_heads.data.official.lengthen import TOO_FEW, TOO_LONG, Frame, arrange, check_depths, lengthen, spread
from retrieval_heads.data.official.loaders import assemble
from retrieval_heads.data.official.sources import Pool, official_files, read_sources, text_key, without_repeats
from retrieval_heads.errors import ConfigError, DataError, ModelError
from retrieval_heads.models.load import load_tokenizer

TASKS = ("mdqa", "musique", "summhay")
CHAT = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}[model]:\n"


def _sources(folder: Path, task: str, n: int) -> list[Source]:
    return read_sources(task, official_files(save_official(folder, task, n), task))


def _blocks(prompt: str) -> list[str]:
    """The documents' texts, in order."""
    blocks = re.split(r"(?=Document \d+:)", prompt.split("\n\nQuestion:")[0])
    return [block.split("\n", 1)[1].strip() for block in blocks if block.startswith("Document ")]


def _needles(source: Source) -> Counter[str]:
    return Counter(source.documents[index][1][start:end]
                   for index, spans in source.marked.items() for start, end in spans)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("chat", [False, True])
def test_lengthened_records(task: str, chat: bool, tmp_path: Path, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", CHAT)
    sources = _sources(tmp_path, task, 3 if task == "summhay" else 40)
    pool, frame = Pool(sources), Frame(tiny_tokenizer, "Answer from the documents.", chat)
    for source, depths in zip(sources, spread([0, 0.3, 1], [len(s.marked) for s in sources], 4), strict=True):
        example = lengthen(source, pool, frame, 1500, depths=depths, seed=1)
        tokens = len(encode(example, tiny_tokenizer, 1500).ids)
        assert 0.9 * 1500 < tokens == example.meta["tokens"] <= 1500
        assert Counter(example.needle_texts()) == _needles(source)
        texts = _blocks(example.prompt)
        assert len({text_key(text) for text in texts}) == len(texts) == example.meta["documents"]
        gold = {source.documents[index][1] for index in source.marked}
        assert {texts[number - 1] for number in example.meta["gold"]} == gold
        for text in set(texts) - gold:
            assert not any(answer.lower() in text.lower() for answer in source.answers)
            assert source.id not in pool.gold_of.get(text_key(text), ())
        assert example.answer == (", ".join(map(str, example.meta["gold"])) if task == "summhay" else source.answers[0])
        assert sorted(example.meta["depths_asked"]) == sorted(depths)
        for reached, asked in zip(example.meta["depths"], example.meta["depths_asked"], strict=True):
            assert abs(reached - asked) < 0.06
        if 0 in depths:
            assert example.meta["gold"][0] == 1
        if 1 in depths:
            assert example.meta["gold"][-1] == len(texts)
        assert example.meta["own"] + example.meta["added"] + len(gold) == len(texts)
        assert example.joint == ("" if chat else " ")
        assert example.prompt.count("Answer from the documents.") == 1
        assert example == lengthen(source, pool, frame, 1500, depths=depths, seed=1)
        assert example.prompt != lengthen(source, pool, frame, 1500, depths=depths, seed=2).prompt


def test_documents_that_hold_an_answer_or_are_kept_apart_are_left_out(tmp_path: Path, tiny_tokenizer):
    sources = _sources(tmp_path, "mdqa", 20)
    pool, frame = Pool(sources), Frame(tiny_tokenizer)
    # as many tokens as all documents have: the missing twentieth is allowed
    everything = sum(frame.count(list(pool.documents.values()))) + 60
    other = lengthen(sources[5], pool, frame, everything, depths=[0.5])
    assert sources[0].documents[0][1] in other.prompt
    assert (other.meta["documents"], other.meta["refused"]) == (40, 0)
    # record 2 accepts, in another writing, what the gold document of record 0 holds
    example = lengthen(sources[2], pool, frame, everything, depths=[0.5])
    assert sources[0].documents[0][1] not in example.prompt
    assert (example.meta["documents"], example.meta["refused"]) == (39, 1)
    apart = frozenset({text_key(sources[7].documents[0][1])})
    without = lengthen(sources[5], pool, frame, everything, depths=[0.5], apart=apart)
    assert sources[7].documents[0][1] not in without.prompt
    assert without.meta["documents"] == 39


def test_longer_haystacks_hold_most_of_a_shorter_one(tmp_path: Path, tiny_tokenizer):
    sources = _sources(tmp_path, "mdqa", 40)
    pool, frame = Pool(sources), Frame(tiny_tokenizer)
    short, long = (set(_blocks(lengthen(sources[3], pool, frame, n, depths=[0.5]).prompt)) for n in (800, 1600))
    assert len(short & long) >= len(short) - 2
    assert len(long) > 1.7 * len(short)


def test_same_text_is_one_document_whatever_its_case_and_spaces(tmp_path: Path, tiny_tokenizer):
    sources = _sources(tmp_path, "mdqa", 4)
    title, text = sources[1].documents[1]
    documents = (*sources[2].documents, (title, f" {text.upper()}  "), (title, text))
    doubled = replace(sources[2], documents=documents)
    pool = Pool([*sources, doubled])
    assert len(pool) == 8
    example = lengthen(doubled, pool, Frame(tiny_tokenizer), 1000, depths=[0])
    assert sum(text_key(block) == text_key(text) for block in _blocks(example.prompt)) == 1


@pytest.mark.parametrize(("answer", "text"), [
    ("Röntgen", "by rontgen and"), ("U.S.", "in the US army"), ("well-known", "a well known one"), ("5", "in 2015"),
    ("The Beatles", "two beatles"), ("new  york", "New York"), ("Straße", "STRASSE"), ("3,000", "3000 men"),
])
def test_answers_are_found_in_other_writings(answer: str, text: str):
    assert Forbidden(["nothing else", answer]).held_by("Title", text)
    assert Forbidden([answer]).held_by(text, "some text")
    assert not Forbidden([answer]).held_by("Title", "other things")


def test_answer_of_punctuation_alone_forbids_only_itself():
    assert not Forbidden(["?!"]).held_by("Title", "A text.")
    assert Forbidden(["?!"]).held_by("Title", "A text?!")
    assert not Forbidden([]).held_by("Title", "A text.")


def test_depths_are_dealt_equally_often_and_by_seed():
    dealt = spread([0, 0.25, 0.5, 1], [1, 2, 3] * 20, seed=3)
    assert [len(depths) for depths in dealt] == [1, 2, 3] * 20
    assert Counter(depth for depths in dealt for depth in depths) == {0: 30, 0.25: 30, 0.5: 30, 1: 30}
    assert dealt == spread([0, 0.25, 0.5, 1], [1, 2, 3] * 20, seed=3) != spread([0, 0.25, 0.5, 1], [1, 2, 3] * 20, 4)
    assert len({depths for depths in dealt if len(depths) == 2}) > 5


def test_places_are_the_nearest_in_tokens():
    assert arrange([10, 10, 80], [0, 0.14, 0.16, 0.59, 0.61, 1]) == ([0, 1, 2, 2, 3, 3], [0, 0.1, 0.2, 0.2, 1, 1])
    assert arrange([], [0.5]) == ([0], [0.0])


@pytest.mark.parametrize("depths", [[], [1.2], [-0.1], ["0.5"], [float("nan")]])
def test_wrong_depths(depths: list):
    with pytest.raises(ConfigError, match="depths"):
        check_depths(depths)


def test_records_that_are_too_long_or_pools_too_small(tmp_path: Path, tiny_tokenizer):
    sources = _sources(tmp_path, "mdqa", 5)
    pool, frame = Pool(sources), Frame(tiny_tokenizer)
    with pytest.raises(UnusableRecordError, match=r"made\.jsonl, line 2.*\d+ tokens .*, 50 allowed") as caught:
        lengthen(sources[1], pool, frame, 50, depths=[0.5])
    assert caught.value.problem == TOO_LONG
    with pytest.raises(UnusableRecordError, match=r"(\d+) tokens of documents without the answer, (\d+) needed") as few:
        lengthen(sources[1], pool, frame, 5000, depths=[0.5])
    assert few.value.problem == TOO_FEW
    had, needed = map(int, re.findall(r"(\d+) (?:tokens of|needed)", str(few.value)))
    assert had == sum(frame.count([d for d in pool.documents.values() if d != sources[1].documents[0]]))
    assert had < needed < 5000
    alone = lengthen(sources[1], Pool([]), frame, 205, depths=[0.5])
    assert (alone.meta["documents"], alone.meta["depths"]) == (1, [0])


def test_frames_that_cannot_be_used(tmp_path: Path, tiny_tokenizer, monkeypatch):
    source = _sources(tmp_path, "mdqa", 1)[0]
    with pytest.raises(ModelError, match="no chat template"):
        Frame(tiny_tokenizer, chat=True)
    example = assemble(source, [0], "")
    for template, problem in (("{{ raise_exception('no') }}", "refuses"), ("Hello", "changes the prompt"),
                              ("{{ messages[0].content | upper }}", "changes the prompt")):
        monkeypatch.setattr(tiny_tokenizer, "chat_template", template)
        with pytest.raises(DataError, match=f"example nq-open-made.jsonl:1: the chat template {problem}"):
            Frame(tiny_tokenizer, chat=True).finish(example)


def test_documents_are_counted_once(tmp_path: Path, tiny_tokenizer):
    calls = []

    class Counting:
        is_fast = True

        def __call__(self, texts, **settings):
            calls.append(len(texts))
            return tiny_tokenizer(texts, **settings)

    documents = [document for source in _sources(tmp_path, "mdqa", 6) for document in source.documents]
    frame = Frame(Counting())
    first = frame.count([*documents[:8], documents[0]])
    assert frame.count(documents)[:8] == first[:8]
    assert first[0] == first[8] == len(tiny_tokenizer.tokenize(
        f"Document 100: {documents[0][0]}\n{documents[0][1]}\n\n", add_special_tokens=False))
    assert calls == [8, 4]


def test_of_repeated_questions_the_record_with_most_documents_is_kept(tmp_path: Path):
    sources = _sources(tmp_path, "mdqa", 3)
    more = replace(sources[1], documents=(*sources[1].documents, ("", "Another.")))
    dropped: Counter[str] = Counter()
    assert without_repeats([*sources, more], dropped) == [sources[0], sources[2], more]
    assert dropped == {"another record asks the same question": 1}


def test_official_files_that_are_not_there(tmp_path: Path):
    with pytest.raises(DataError, match=r"no official file of mdqa.*fetch mdqa"):
        official_files(tmp_path, "mdqa")


@pytest.mark.parametrize("task", TASKS)
def test_real_records_at_length(task: str, real_data: Path):
    sources = read_sources(task, official_files(real_data, task))
    pool, frame = Pool(sources), Frame(load_tokenizer(Path(paths.resolve_model("models/base"))))
    chosen = random.Random(5).sample(without_repeats(sources), 12)
    made = 0
    for source, depths in zip(chosen, spread([0, 0.5, 1], [len(s.marked) for s in chosen]), strict=True):
        try:
            example = lengthen(source, pool, frame, 16384, depths=depths)
        except UnusableRecordError:  # short answers, and insights of very many documents
            continue
        made += 1
        assert 0.93 * 16384 < len(encode(example, frame.tokenizer, 16384).ids) == example.meta["tokens"]
        assert Counter(example.needle_texts()) == _needles(source)
        rest, last = "", 0
        for start, end in example.needles:
            rest, last = rest + example.prompt[last:start], end
        held = [rest + example.prompt[last:], *(source.documents[index][1] for index in source.marked)]
        if task == "mdqa":  # outside the gold passage and the question the answer stands nowhere
            outside = held[0].replace(held[1], "").split("\nQuestion: ")[0]
            gold = example.meta["gold"][0]
            texts = re.split(r"(?m)^Document (?=\d+:)", outside)
            assert not any(answer.lower() in text.lower() for text in texts if not text.startswith(f"{gold}:")
                           for answer in example.answers)
    assert made >= (3 if task == "summhay" else 10)
