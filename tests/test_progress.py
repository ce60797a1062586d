"""Lines on what is going on where output is piped: only if asked for, and not too many."""

from __future__ import annotations

import sys

import pytest

from retrieval_heads import progress
from retrieval_heads.progress import lines, named, tell


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)


def test_lines_name_the_run_and_how_far_it_is(capsys):
    with lines(), named("run 2 of 3", "A, seed 1: training"):
        assert list(progress.progress(range(5), "scoring")) == [0, 1, 2, 3, 4]
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "run 2 of 3: A, seed 1: training"
    assert err[2] == "run 2 of 3, 40%: scoring"
    assert len(err) == 6


def test_no_more_than_one_line_in_a_while(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 60.0)
    with lines(), named("run 1 of 1"):
        list(progress.progress(range(100), "scoring"))
    assert capsys.readouterr().err == "run 1 of 1\n"


def test_nothing_is_written_unless_asked_for(capsys):
    with named("run 1 of 1"):
        list(progress.progress(range(3), "scoring"))
        tell("scoring", 1, 3)
    with lines():
        list(progress.progress(range(3), "scoring"))  # outside of a run
    assert capsys.readouterr().err == ""


def test_bars_on_a_terminal_name_the_run(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with lines(), named("run 2 of 3"):
        list(progress.progress(range(3), "scoring"))
    assert "run 2 of 3: scoring" in capsys.readouterr().err
