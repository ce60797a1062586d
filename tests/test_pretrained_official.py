"""The official files of the pretrained study are the first records of the publisher's file, or are refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from retrieval_heads.errors import DataError
from tools import pretrained_official


def published(path: Path, numbers: range) -> Path:
    lines = [json.dumps({"question": f"q{n}", "answers": ["a"], "ctxs": [
        {"id": str(n), "title": "t", "text": "a text", "isgold": True}]}) for n in numbers]
    path.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    return path


def test_the_first_records_are_kept_as_they_stand(tmp_path, monkeypatch) -> None:
    whole = published(tmp_path / "whole.jsonl.gz", range(305))
    lines = gzip.decompress(whole.read_bytes()).splitlines(keepends=True)
    monkeypatch.setattr(pretrained_official, "DIGEST", pretrained_official.digest(lines[:300]))
    assert pretrained_official.first_records(whole) == b"".join(lines[:300])
    with pytest.raises(DataError, match="the first records are not those of the study"):
        pretrained_official.first_records(published(tmp_path / "other.jsonl.gz", range(1, 305)))
    for broken in (gzip.compress(b'{"question": "q"}\n'), gzip.compress(b"no JSON\n"), whole.read_bytes()[:99], b""):
        whole.write_bytes(broken)
        with pytest.raises(DataError, match="the first records are not those of the study"):
            pretrained_official.first_records(whole)


def test_only_what_is_absent_is_fetched_and_the_cut_has_the_name_of_the_records(tmp_path, monkeypatch) -> None:
    asked: list[list[str]] = []

    def fetch(origin, folder):
        """Files as if they had been downloaded."""
        asked.append([remote.name for remote in origin.files])
        (tmp_path / "got").mkdir()
        return [published(tmp_path / "got" / remote.name, range(301)) for remote in origin.files]

    monkeypatch.setattr(pretrained_official, "fetch", fetch)
    first = gzip.decompress(published(tmp_path / "first", range(300)).read_bytes())
    monkeypatch.setattr(pretrained_official, "DIGEST", pretrained_official.digest(first.splitlines()))
    for _ in range(2):
        pretrained_official.provide(tmp_path / "mdqa")
    assert asked == [[pretrained_official.ORACLE, pretrained_official.WHOLE]]
    assert sorted(path.name for path in (tmp_path / "mdqa").iterdir()) == sorted(
        [pretrained_official.CUT, pretrained_official.ORACLE])
    assert gzip.decompress((tmp_path / "mdqa" / pretrained_official.CUT).read_bytes()) == first
    records = json.loads((Path(__file__).parents[1] / "data/written/records_mdqa.json").read_text())
    assert {name.rpartition(":")[0] for ids in records.values() for name in ids} == {
        pretrained_official.CUT, pretrained_official.ORACLE}
