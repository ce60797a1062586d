"""A folder of results belongs to one request, from the first result on."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval_heads.claimed_folder import FILE, check_claim, claimed, on_record
from retrieval_heads.errors import ResultError


def make_and_fail(path: Path) -> None:
    path.write_text("result")
    raise ZeroDivisionError


def test_a_call_that_fails_before_it_made_anything_leaves_the_folder_to_others(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "out", {"model": "missing"}, "a trial"):
        raise ZeroDivisionError
    assert not (tmp_path / "out" / FILE).exists()
    with claimed(tmp_path / "out", {"model": "there"}, "a trial"):
        assert (tmp_path / "out" / FILE).is_file()


def test_a_call_that_fails_later_keeps_the_folder_and_what_it_made(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path, {"model": "a"}, "a trial"):
        make_and_fail(tmp_path / "made")
    with claimed(tmp_path, {"model": "a"}, "a trial"):
        assert (tmp_path / "made").read_text() == "result"
    with pytest.raises(ResultError, match="another model"), claimed(tmp_path, {"model": "b"}, "a trial"):
        pass


def test_a_later_call_that_fails_leaves_an_earlier_request_as_it_was(tmp_path: Path) -> None:
    with claimed(tmp_path, {"model": "a"}, "a trial"):
        pass
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ZeroDivisionError), claimed(tmp_path, {"model": "a"}, "a trial"):
        raise ZeroDivisionError
    assert (tmp_path / FILE).read_bytes() == before


def test_a_request_may_grow_where_it_is_allowed_to(tmp_path: Path) -> None:
    growing = ("train", "seeds", "real")

    def claim(**wanted):
        with claimed(tmp_path, {"model": "a", **wanted}, "a trial", growing):
            return on_record(tmp_path)

    claim(train={"A": "1"}, seeds=[1], real=None)
    both = {"model": "a", "train": {"A": "1", "B": "2"}, "seeds": [1, 2], "real": "r"}
    assert claim(train={"A": "1", "B": "2"}, seeds=[1, 2], real="r") == both
    assert claim(train={"B": "2"}, seeds=[2], real=None) == both  # a part of it forgets nothing
    check_claim(tmp_path, {"model": "a", "train": {"C": "3"}}, "a trial", growing)
    for wanted, name in (({"train": {"A": "9"}}, "train"), ({"real": "q"}, "real"), ({"model": "b"}, "model")):
        with pytest.raises(ResultError, match=f"another {name}"):
            check_claim(tmp_path, {"model": "a", **wanted}, "a trial", growing)
    assert on_record(tmp_path) == both
    assert on_record(tmp_path / "nowhere") == {}
