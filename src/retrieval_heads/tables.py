"""The tables of the study: their columns, and CSV files that are equal byte for byte when their rows are equal.

The data dictionary stands in `tables.yaml`; a table that does not follow it is neither written nor read. That of the
tables which verbs write over files of examples stands in `verb_tables.yaml`.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from retrieval_heads import paths
from retrieval_heads.errors import ResultError

_DTYPES = {"str": object, "int": "int64", "float": "float64", "bool": "bool"}


@dataclass(frozen=True)
class Column:
    """One column: `type` is `str`, `int`, `float` or `bool`; `key` columns identify a row; `empty` allows none.

    A column that may be `absent` is left out where it does not apply.
    """

    name: str
    type: str
    meaning: str
    unit: str = ""
    key: bool = False
    empty: bool = False
    absent: bool = False


@dataclass(frozen=True)
class Table:
    """One table: the stage or verb (or `tool`, a script) that makes it, what a row is, and its columns in order."""

    name: str
    stage: str
    row: str
    columns: tuple[Column, ...]
    tool: str = ""

    def command(self, profile: str) -> str:
        """The command that makes it."""
        return (f"python {self.tool} --help" if self.tool else
                f"python -m retrieval_heads run {self.stage} --profile {profile}")

    @property
    def key(self) -> list[str]:
        return [column.name for column in self.columns if column.key]


@cache
def all_tables() -> dict[str, Table]:
    """The data dictionary, in the order of the stages."""
    text = _read("tables.yaml")
    return {name: Table(name, table["stage"], table["row"], _columns(table, text["shared"]), table.get("tool", ""))
            for name, table in text["tables"].items()}


@cache
def verb_tables() -> dict[str, dict[str, Table]]:
    """By verb and name, the tables that it writes over files of examples."""
    text = _read("verb_tables.yaml")
    return {verb: {name: Table(name, verb, table["row"], _columns(table, text["shared"], all_tables().get(name)))
                   for name, table in tables.items()}
            for verb, tables in text["verbs"].items()}


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _columns(table: dict[str, Any], shared: dict[str, Any], study: Table | None = None) -> tuple[Column, ...]:
    """The columns of a table; `shared` or `study` stand for those that are explained there."""
    of_study = {column.name: column for column in study.columns} if study else {}
    return tuple(
        of_study[name] if facts == "study" else Column(name, **(shared[name] if facts == "shared" else facts))
        for name, facts in table["columns"].items()
    )


def get_table(name: str) -> Table:
    """The table of that name; `ResultError` names the known ones otherwise."""
    if name not in all_tables():
        raise ResultError("unknown table", where="table", value=name, remedy=f"Use one of {', '.join(all_tables())}.")
    return all_tables()[name]


def conform(name: str, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as the table wants them: columns in order, types exact, sorted by key.

    Raises:
        ResultError: a missing or unknown column, a value of another type, an empty cell where none may be, an infinite
            number, or two rows with one key.
    """
    return follow(get_table(name), pd.DataFrame(rows), f"table {name}")


def follow(table: Table, frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """As `conform`, for a table that is given itself; errors say `where`."""
    wanted = [column.name for column in table.columns if column.name in frame or not column.absent]
    if not len(frame) and not len(frame.columns):
        frame = frame.reindex(columns=wanted)
    absent, unknown = [c for c in wanted if c not in frame], [c for c in frame if c not in wanted]
    if absent or unknown:
        raise ResultError(
            f"the columns do not follow the data dictionary: missing {absent}, unknown {unknown}", where=where,
            remedy="It was made by another version: delete it and make it again.",
        )
    frame = pd.DataFrame({
        column.name: _cast(frame[column.name], column, where) for column in table.columns if column.name in wanted
    })
    doubled = frame[frame.duplicated(table.key)]
    if len(doubled):
        raise ResultError("two rows have one key", where=where, value=doubled.iloc[0][table.key].to_dict(),
                          remedy=f"The key is {', '.join(table.key)}.")
    return frame.sort_values(table.key, ignore_index=True)


def to_csv(frame: pd.DataFrame) -> bytes:
    """CSV in UTF-8 with `\\n` line ends; each float has the fewest digits that give it back exactly."""
    return frame.to_csv(index=False, lineterminator="\n").encode()


def table_bytes(path: Path) -> bytes:
    """The text of a table's file, unpacked where it ends in `.gz`."""
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def read_table(name: str, path: Path) -> pd.DataFrame:
    """Read a table or a part of one and check it against the data dictionary.

    Raises:
        ResultError: no such file, or one that does not follow the dictionary.
    """
    where = paths.shown(path)
    try:
        # by Python's csv and float, not pandas' parser: exact numbers, and no text such as NA that turns into nothing
        frame = pd.read_csv(io.BytesIO(table_bytes(path)), dtype=object, keep_default_na=False, na_values=[""])
    except FileNotFoundError as error:
        raise ResultError("no such table", where=where,
                          remedy=f"Make it with `{get_table(name).command('PROFILE')}`.") from error
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise ResultError(f"not a CSV table: {error}", where=where, remedy="Delete it and make it again.") from error
    return follow(get_table(name), frame, where)


def dictionary_markdown() -> str:
    """The data dictionary as Markdown, one section a table."""
    lines = []
    for table in all_tables().values():
        maker = f"`{table.tool}`" if table.tool else f"the stage `{table.stage}`"
        lines += [f"## `{table.name}`", "", f"One row: {table.row}. Made by {maker}.", "",
                  "| column | type | unit | key | meaning |", "|---|---|---|---|---|"]
        for column in table.columns:
            kind = column.type + (", may be empty" if column.empty else "")
            lines.append(
                f"| `{column.name}` | {kind} | {column.unit} | {'yes' if column.key else ''} | {column.meaning} |")
        lines.append("")
    return "\n".join(lines)


def _cast(cells: pd.Series, column: Column, where: str) -> pd.Series:
    quick = _cast_at_once(cells, column)
    if quick is not None:
        return quick
    place = f"{where}, column {column.name}"
    missing = cells.isna()
    if missing.any() and not column.empty:
        raise ResultError(f"row {int(missing.argmax()) + 1} has no value", where=place, remedy="Fill the cell.")
    # a whole-number column with empty cells arrives as floats from pandas
    if column.type == "int" and column.empty and cells.dtype == "float64":
        cells = cells.astype("Int64")
    values = [None if gone else _value(cell, column, place) for cell, gone in zip(cells, missing, strict=True)]
    with_empty = {"int": "Int64", "bool": "boolean"} if column.empty else {}
    return pd.Series(values, dtype=with_empty.get(column.type, _DTYPES[column.type]))


def _cast_at_once(cells: pd.Series, column: Column) -> pd.Series | None:
    """The cells of a column without empty or odd ones, as most are; None where they have to be looked at singly."""
    if column.type == "bool" or (column.type == "int" and column.empty):
        return None
    values = cells.to_numpy()
    if column.type == "str":
        fine = values.dtype == object and all(type(value) is str and value and value.isprintable() for value in values)
        return pd.Series(values, dtype=object) if fine else None
    if values.dtype == object and all(type(value) is str for value in values):
        values = values.astype(str)
    wanted = "iU" if column.type == "int" else "ifU"
    if values.dtype.kind not in wanted:
        return None
    try:
        numbers = values.astype(_DTYPES[column.type])
    except ValueError:
        return None
    return pd.Series(numbers) if np.isfinite(numbers).all() else None


def _value(cell: Any, column: Column, place: str) -> Any:
    """One cell as its column's type, from a computed value or from the text of a file."""
    cell = cell.item() if hasattr(cell, "item") else cell
    try:
        # a carriage return would not survive the file, and names need no other control character either
        if column.type == "str" and isinstance(cell, str) and cell and cell.isprintable():
            return cell
        if column.type == "bool" and str(cell) in ("True", "False"):
            return str(cell) == "True"
        if column.type == "int" and not isinstance(cell, bool | float):
            return int(cell)
        if column.type == "float" and not isinstance(cell, bool) and math.isfinite(float(cell)):
            return float(cell)
    except (TypeError, ValueError):
        pass
    kinds = {"str": "text without control characters", "int": "a whole number", "float": "a finite number",
             "bool": "True or False"}
    raise ResultError(f"not {kinds[column.type]}", where=place, value=cell,
                      remedy="The data dictionary (tables.yaml) says what the column holds.")
