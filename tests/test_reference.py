"""The reference pages: nothing that is public is missing, and the dictionary of tables is that of the tables."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pandas as pd
import pytest

from retrieval_heads.cli import parsers
from retrieval_heads.rank.calibration import PREDICTORS
from retrieval_heads.rank.result import Result
from retrieval_heads.tables import all_tables, follow, verb_tables
from tools.book.reference import table_text, verb_text

PAGES = Path(__file__).parents[1] / "book" / "reference"
PUBLIC = ("retrieval_heads", "retrieval_heads.data", "retrieval_heads.data.official", "retrieval_heads.figures",
          "retrieval_heads.check", "retrieval_heads.diagnose", "retrieval_heads.rank")
VERBS = sorted(parsers()[1])


def documented() -> list[str]:
    """The full names that the pages have a directive for."""
    names = []
    for page in sorted(PAGES.glob("*.md")):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if found := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
                module = found[1]
            elif found := re.fullmatch(r"\.\. auto(function|class|exception|data):: (\S+)", line):
                names.append(f"{module}.{found[2]}")
    return names


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_its_place(module: str) -> None:
    public = {f"{module}.{name}" for name in import_module(module).__all__}
    assert public
    assert not public - set(documented())


def test_what_is_documented_is_there_once_and_says_what_it_is() -> None:
    names = documented()
    assert len(set(names)) == len(names)
    assert not [name for name in names if not (resolve_name(name).__doc__ or "").strip()]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_functions_say_arguments_and_errors(module: str) -> None:
    home = import_module(module)
    for name in home.__all__:
        text = getattr(home, name).__doc__
        if text.startswith(f"`{name.replace('iterate_', 'load_')}`, "):
            continue  # the same, one example at a time
        assert any(part in text for part in ("Args:", "Attributes:", "rrors as in")), name
        assert "Raises:" in text or "rrors as in" in text, name


def test_every_verb_has_its_place_and_a_label() -> None:
    page = (PAGES / "commands.md").read_text(encoding="utf-8")
    places = re.findall(r"\(verb-(\S+)\)=\n### `(\S+)`\n\n```\{verb\} (\S+)\n```", page)
    assert sorted(label for label, *_ in places) == VERBS
    assert all(label == title == verb for label, title, verb in places)


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_of_a_verb_is_explained(verb: str) -> None:
    text = "\n".join(verb_text(verb))
    assert max(map(len, re.findall(r"(?s)```text\n(.*?)```", text)[0].splitlines())) <= 79
    shown = re.findall(r"(?m)^:::\{option\} (.+)\n(.*)\n:::$", text)
    arguments = [action for action in parsers()[1][verb]._actions if action.dest != "help"]
    for action, (signature, body) in zip(arguments, shown, strict=True):
        assert action.help, action.dest
        names = action.option_strings or [action.metavar or ",".join(action.choices)]
        assert all(name in signature for name in names)
        assert body.removeprefix("**required**: ").strip()
        assert ("**required**" in body) == bool(action.required and action.option_strings)


def test_the_page_of_tables_has_every_dictionary() -> None:
    page = (PAGES / "tables.md").read_text(encoding="utf-8")
    assert re.findall(r"```\{dictionary\} (\S+)\n```", page) == [*verb_tables(), "study"]


def test_every_column_of_a_table_is_in_its_section() -> None:
    everything = {"study": all_tables(), **verb_tables()}
    labels = []
    for whose, tables in everything.items():
        for table in tables.values():
            label, heading, _, row, *_ = lines = list(table_text(whose, table))
            labels.append(label)
            assert heading == f"### `{table.name}`"
            assert len(row) > len("One row: .")
            cells = [line.split(" | ") for line in lines if line.startswith("| `")]
            assert [name.strip("| `") for name, *_ in cells] == [column.name for column in table.columns]
            assert all(meaning.strip(" |") for *_, meaning in cells)
    assert len(set(labels)) == len(labels)


def test_keys_and_kinds_are_said() -> None:
    text = "\n".join(table_text("diagnose", verb_tables()["diagnose"]["answers"]))
    assert "| `condition` | str, **key** |" in text
    assert "| `f1` | float, fraction, may be absent |" in text


def test_the_table_of_rank_follows_its_dictionary() -> None:
    values = pd.DataFrame({name: [0.5, 0.7] for name in PREDICTORS}, index=["a", "b"])
    made = Result(
        values, None, 40, {"a": 5, "b": 5}, values, {"probe_loss": 0.9}, 3, [], {"a": "", "b": ""}, {},
        6, 6, None, 0.1, 512, 1e4, {},
    ).table()
    table = verb_tables()["rank"]["rank"]
    assert len(follow(table, made, "rank.csv")) == 2 * len(PREDICTORS) + 1
    [predictor] = [column for column in table.columns if column.name == "predictor"]
    assert not [name for name in PREDICTORS if f"`{name}`" not in predictor.meaning]
