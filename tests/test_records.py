"""Reading records: formats, lines, limits, and one error for whatever is wrong with a file."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from functools import partial
from pathlib import Path

import pytest

from retrieval_heads.data.official.records import read_ids, read_records
from retrieval_heads.errors import ConfigError, DataError

# with a time stamp the test names would differ between the processes of a parallel run
compress = partial(gzip.compress, mtime=0)

ROWS = [{"a": 1, "text": "naïve\u2028line"}, {"a": 2, "text": "two"}, {"a": 3, "text": "three"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(folder: Path, content: str | bytes, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def failure(path: Path, reader=read_records, **settings) -> str:
    with pytest.raises(DataError) as caught:
        list(reader(path, **settings))
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("lines.jsonl", LINES.encode(), [1, 2, 3]),
        ("blank-lines.jsonl", LINES.replace("\n", "\n\n  \n").encode(), [1, 4, 7]),
        ("windows.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode(), [1, 2, 3]),
        ("lines.jsonl.gz", compress(LINES.encode()), [1, 2, 3]),
        ("two-members.jsonl.gz", compress(LINES.encode()[:30]) + compress(LINES.encode()[30:]), [1, 2, 3]),
        ("unpacked.jsonl.gz", LINES.encode(), [1, 2, 3]),
        ("packed.jsonl", compress(LINES.encode()), [1, 2, 3]),
        ("array.json", json.dumps(ROWS).encode(), [1, 1, 1]),
        ("pretty.json", json.dumps(ROWS, indent=1).encode(), [2, 6, 10]),
        ("array.json.gz", compress(json.dumps(ROWS, indent=1).encode()), [2, 6, 10]),
    ],
)
def test_formats_give_the_same_records_with_their_lines(tmp_path: Path, name: str, content: bytes, lines: list[int]):
    path = write(tmp_path, content, name)
    for reader in (read_records, partial(read_records, lines=False)):
        records = list(reader(path))
        assert [record.data for record in records] == ROWS
        assert [record.line for record in records] == lines
        assert [record.data for record in reader(path, limit=2)] == ROWS[:2]
    assert records[1].where == f"{path}, line {lines[1]}"


def test_documents_may_run_over_several_lines(tmp_path: Path):
    path = write(tmp_path, json.dumps(ROWS[0], indent=2) + "\n" + json.dumps(ROWS[1], indent=2))
    assert [(record.data, record.line) for record in read_records(path, lines=False)] == [(ROWS[0], 1), (ROWS[1], 5)]
    assert "line 1: the record breaks off" in failure(path)


def test_record_that_breaks_off_names_the_line_and_the_sound_records(tmp_path: Path):
    path = write(tmp_path, LINES[:-10])
    message = failure(path)
    assert "line 3: the record breaks off" in message
    assert "limit=2" in message
    assert [record.data for record in read_records(path, limit=2)] == ROWS[:2]


def test_array_that_breaks_off_is_read_up_to_the_limit(tmp_path: Path):
    path = write(tmp_path, json.dumps(ROWS, indent=1)[:-12])
    assert "line 12: the record breaks off" in failure(path)
    assert [record.data for record in read_records(path, limit=2)] == ROWS[:2]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "holds no record"),
        (" \n\n", "holds no record"),
        ("[]", "holds no record"),
        (compress(b""), "holds no record"),
        ("hello\n", "line 1: malformed JSON"),
        ('{"a": 1}\n{"a": 1,}\n', "line 2: malformed JSON"),
        ('{"a": 1} {"a": 2}\n', "line 1: malformed JSON"),
        ('{"a": 1}\n"text"\n', "line 2: the record is not a JSON object (got 'text')"),
        ('{"a": 1}\n[1, 2]\n', "line 2: the record is not a JSON object (got 'a list of 2')"),
        ('[{"a": 1},\n 7]', "line 2: the record is not a JSON object (got 7)"),
        ('[{"a": 1}\n {"a": 2}]', "line 2: malformed JSON (Expecting ',' or ']')"),
        ('[{"a": 1},\n{"a": 2},]', "line 2: malformed JSON"),
        ('[{"a": 1}]\n[]', "Extra data behind the array"),
        ('[{"a": 1}', "the record breaks off"),
        ("[" * 100_000, "line 1: the JSON cannot be read"),
        ('{"a": ' + "9" * 5_000 + "}\n", "line 1: the JSON cannot be read"),
        (b'{"a": "caf\xe9"}\n', "line 1: byte 11 of the line is not UTF-8"),
        (LINES.encode("utf-16"), "line 1: byte 1 of the line is not UTF-8"),
        (compress(LINES.encode())[:-12], "the gzip stream is damaged or cut off"),
        (compress(LINES.encode())[:-8] + b"\0" * 8, "the gzip stream is damaged or cut off"),
        (compress(LINES.encode())[:10] + b"\xff" * 40, "the gzip stream is damaged or cut off"),
    ],
)
def test_bad_file_is_one_error(tmp_path: Path, content: str | bytes, expected: str):
    assert expected in failure(write(tmp_path, content))


def test_missing_file_and_folder(tmp_path: Path):
    assert "no such file" in failure(tmp_path / "absent.jsonl")
    assert "cannot be read (Is a directory)" in failure(tmp_path)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2"])
def test_limit_must_be_a_count(tmp_path: Path, limit: object):
    with pytest.raises(ConfigError, match="limit: not a count"):
        list(read_records(tmp_path / "any", limit=limit))


def test_memory_does_not_grow_with_the_number_of_lines(tmp_path: Path):
    path = tmp_path / "long.jsonl.gz"
    row = json.dumps({"text": "word " * 2_000}) + "\n"
    with gzip.open(path, "wt", compresslevel=1) as file:
        for _ in range(1_000):
            file.write(row)
    tracemalloc.start()
    count = sum(1 for _ in read_records(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1_000
    assert peak < len(row) * 1_000 / 10


def test_plain_lists_of_ids(tmp_path: Path):
    (tmp_path / "ids.txt").write_text("a.jsonl:3\n\n a.jsonl:1 \na.jsonl:3\n")
    assert read_ids(tmp_path / "ids.txt") == ("a.jsonl:3", "a.jsonl:1")
    for content, match in (("\n", "holds no"), ('{"fact": 0}\n', "line 1: the record has no id"),
                           ('["a"]\n', "has no id"), ('{"id": 3}\n', "has no id")):
        (tmp_path / "ids.txt").write_text(content)
        with pytest.raises(DataError, match=match):
            read_ids(tmp_path / "ids.txt")
