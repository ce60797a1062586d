"""Some bad inputs of `benchmarks/bad_inputs.py`, of every surface: each ends with an error of ours and a remedy."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import bad_inputs
import pytest
from bad_commands import VERBS
from bad_files import Valid
from bad_inputs import SURFACES, Case, cases, table

from retrieval_heads.cli import main
from retrieval_heads.data.official.records import JsonStream

PER_SURFACE = 5


@pytest.fixture(scope="module")
def found() -> list[Case]:
    return list(cases(PER_SURFACE * len(SURFACES), seed=77))


def test_the_command_lines_are_valid_before_they_are_spoilt(tmp_path: Path, capsys):
    valid = Valid.make(tmp_path / "valid")
    with bad_inputs.nothing_begins():
        for verb in sorted(set(VERBS) - {"fetch", "pretrain", "publish"}):  # network, training, results/
            with contextlib.suppress(bad_inputs.BegunError):
                assert main([verb, *VERBS[verb][0](valid, tmp_path / verb)]) == 0, verb


def test_every_surface_is_tried(found: list[Case]):
    assert Counter(case.surface for case in found) == dict.fromkeys(SURFACES, PER_SURFACE)
    assert len({(case.surface, case.fault) for case in found}) > len(found) / 2
    assert sum(row["n"] for row in table(found)) == len(found)


def test_no_other_librarys_error(found: list[Case]):
    assert [f"{case.surface}, {case.fault}: {case.told}" for case in found if case.outcome == "other"] == []


def test_each_error_has_a_remedy(found: list[Case]):
    assert sum(case.outcome == "ours" for case in found) > 0.8 * len(found)
    assert [case for case in found if case.outcome == "ours" and not case.remedy] == []


def test_no_file_is_left(found: list[Case]):
    assert [case for case in found if case.left] == []


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_values_do_not_depend_on_how_the_text_comes(piece: int):
    text = '\n [ {"a": "\\u00e9 ]}"},\n12345, -1.5e3,\n"x\\n", null, [[]], true ] \n'
    pieces = [text[start : start + piece] for start in range(0, len(text), piece)]
    assert list(JsonStream(pieces).values()) == [
        (2, {"a": "é ]}"}), (3, 12345), (3, -1500.0), (4, "x\n"), (4, None), (4, [[]]), (4, True)]


def test_no_more_is_held_than_the_longest_value():
    record = '{"a": "' + "x" * 1000 + '"}'
    stream = JsonStream(iter(["[", *[record + ", "] * 2000, record, "]"]))
    assert max(len(stream.text) for _ in stream.values()) < 2**17 < 2000 * len(record)
