"""Sets of official records that share no gold document: what is limited, left out, given up, and told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from made_official import save_official

from retrieval_heads.data.official.formats import UnusableRecordError
from retrieval_heads.data.official.sources import Source, official_files, read_sources
from retrieval_heads.data.official.split import Split, group_of, split
from retrieval_heads.errors import DataError


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Source]:
    return read_sources("mdqa", official_files(save_official(tmp_path_factory.mktemp("official"), "mdqa", 30), "mdqa"))


def test_limited_sets_are_of_few_kinds(tmp_path: Path):
    kinds = {"mdqa": {"who"}, "musique": {"2-hop"}}
    for task, wanted in kinds.items():
        sources = read_sources(task, official_files(save_official(tmp_path, task, 60), task))
        parts = split(sources, train=12, probe=3, test=5, seed=0)
        assert {group_of(source) for source in parts.limited} == wanted == set(parts.groups)
        assert len({group_of(source) for source in parts.train}) > 1
    sources = read_sources("summhay", official_files(save_official(tmp_path, "summhay", 3), "summhay"))
    parts = split(sources, train=8, probe=3, test=5, seed=0)
    assert len(parts.groups) == 1
    assert len(parts.limited) == 8
    alike = [source for source in sources if source.meta["subtopic"] == 1 and source.meta["topic"] == "t0"]
    with pytest.raises(DataError, match=r"real_limited would need every kind of question \(1 of them\)"):
        split(alike, train=2, probe=1, test=1, seed=0)


def test_named_questions_that_cannot_be_used_are_told(sources: list[Source]):
    numbers = {"train": 2, "probe": 3, "test": 5, "seed": 0}
    with pytest.raises(DataError, match=r"1 of the 2 named questions are not among.*nowhere:1"):
        split(sources, pinned={"train": [sources[0].id, "nowhere:1"]}, **numbers)

    def room(source, training: bool, apart) -> None:
        if training and source.id == sources[3].id:
            raise UnusableRecordError("it is too long")

    with pytest.raises(DataError, match=r"1 of the 2 named .* cannot be used \(1 because it is too long\)"):
        split(sources, pinned={"train": [sources[0].id, sources[3].id]}, room=room, **numbers)


def _topics(tmp_path: Path, n: int, *sizes: int) -> Split:
    sources = read_sources("summhay", official_files(save_official(tmp_path, "summhay", n), "summhay"))
    return split(sources, train=sizes[0], probe=sizes[1], test=sizes[2], seed=0)


def test_what_is_shared_when_topics_are_few(tmp_path: Path):
    two = _topics(tmp_path / "two", 2, 8, 5, 7)
    assert two.apart
    assert len({source.meta["topic"] for source in (*two.probe, *two.test)}) == 1
    assert two.shared_gold()["probe-test"] > 0 == two.shared_gold()["train-test"]
    one = _topics(tmp_path / "one", 1, 3, 3, 4)
    assert not one.apart
    assert one.shared_gold()["train-test"] > 0
    assert one.kept_away(True) == frozenset() != two.kept_away(True)
    assert len({source.id for source in (*one.train, *one.probe, *one.test)}) == 10


def test_records_that_cannot_be_used_are_passed_over_and_counted(sources: list[Source]):
    def room(source, training, apart):
        if source.line % 2:
            raise UnusableRecordError("it is odd", where=source.where)

    parts = split(sources, train=4, probe=2, test=3, seed=0, room=room)
    assert all(source.line % 2 == 0 for source in (*parts.train, *parts.limited, *parts.probe, *parts.test))
    with pytest.raises(DataError, match=r"mdqa: train.*: 9 \+ 2 \+ 4 of 30 records are usable \(left out: 15 "
                                        r"because it is odd\).*'10 \+ 2 \+ 4'"):
        split(sources, train=10, probe=2, test=4, seed=0, room=room)


def test_records_that_the_other_sides_gold_documents_leave_too_few_are_given_up(sources: list[Source]):
    first = split(sources, train=4, probe=2, test=3, seed=0)
    victim = first.test[0].id

    def room(source, training, apart):
        if source.id == victim and apart:
            raise UnusableRecordError("too few", where=source.where)

    dropped: Counter[str] = Counter()
    parts = split(sources, room, train=4, probe=2, test=3, seed=0, dropped=dropped)
    assert victim not in {source.id for source in (*parts.train, *parts.limited, *parts.probe, *parts.test)}
    assert len(parts.test) == 3
    assert dropped == {"too few": 1}


def test_held_out_records_need_room_at_their_own_lengths_only(sources: list[Source]):
    long = {source.id for source in sources if source.line % 2}

    def room(source, training, apart):
        if source.id in long and not training:
            raise UnusableRecordError("too long to be tested", where=source.where)

    dropped: Counter[str] = Counter()
    parts = split(sources, room, train=15, probe=3, test=7, seed=0, dropped=dropped)
    assert not long & {source.id for source in (*parts.probe, *parts.test)}
    assert len(long & {source.id for source in parts.train}) >= 10
    assert 0 < dropped["too long to be tested"] <= 15
