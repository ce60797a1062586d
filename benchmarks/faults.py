"""What can be wrong with a file, drawn by a seeded generator: of its place, its bytes, its JSON, and a folder of files.

Every fault makes the file surely bad for whoever needs all of it; what is still valid afterwards is counted as such.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WRONG = (None, True, 7, -1, 1.5, float("nan"), float("inf"), 10**30, "", "text", "\ud83d", [], ["text", 3], {},
         {"a": 1})
"""Values of all JSON types, from which one of another type than the right one is drawn."""


def other_value(rng: random.Random, value: Any) -> Any:
    """A value of another JSON type."""
    number = (int, float)
    return rng.choice([one for one in WRONG if type(one) is not type(value)
                       and not (isinstance(value, number) and isinstance(one, number) and not isinstance(one, bool))])


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every member of nested lists and objects."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*path, key)
        yield from places(member, (*path, key))


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def json_fault(rng: random.Random, value: Any, only: Callable[[tuple], bool] = lambda path: True) -> tuple[str, Any]:
    """One member of another type, or missing."""
    value = copy.deepcopy(value)
    path = rng.choice([one for one in places(value) if only(one)])
    holder = at(value, path[:-1])
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[path[-1]]
        return "field missing", value
    holder[path[-1]] = other_value(rng, holder[path[-1]])
    return "wrong type", value


def _cut_inside(rng: random.Random, content: bytes) -> bytes:
    lines = content.rstrip().splitlines(keepends=True)
    return b"".join(lines[:-1]) + lines[-1].rstrip()[: rng.randrange(max(1, len(lines[-1].rstrip()) - 1))]


def _inside(rng: random.Random, content: bytes, new: bytes) -> bytes:
    place = rng.randrange(1, max(2, len(content) - 1))
    return content[:place] + new + content[place:]


def _broken_gzip(rng: random.Random, content: bytes) -> bytes:
    packed = bytearray(gzip.compress(content))
    if rng.random() < 0.5:
        return bytes(packed[: rng.randrange(3, len(packed) - 1)])
    packed[-6] ^= 0xFF  # of the checksum
    return bytes(packed)


BYTES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "empty": lambda rng, content: b"",
    "white space only": lambda rng, content: b" \n\n\t \n",
    "cut off": _cut_inside,
    "not UTF-8": lambda rng, content: _inside(rng, content, b"\xff\xfe\xfa"),
    "UTF-16": lambda rng, content: content.decode(errors="replace").encode("utf-16"),
    "NUL bytes": lambda rng, content: _inside(rng, content, bytes(rng.randrange(1, 50))),
    "random bytes": lambda rng, content: rng.randbytes(rng.randrange(1, 2000)),
    "broken gzip": _broken_gzip,
    "an error page in its place": lambda rng, content: b"<!doctype html><title>404 Not Found</title>\n",
    "nested too deeply": lambda rng, content: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "only brackets": lambda rng, content: b"[" * 100_000,
    "a number of 5,000 digits": lambda rng, content: b'{"a": ' + b"9" * 5000 + b"}",
    "a JSON number": lambda rng, content: b"17\n",
    "a JSON list": lambda rng, content: b"[1, 2]\n",
    "JSON null": lambda rng, content: b"null\n",
}
"""What is done to the bytes of a text file."""


def missing(path: Path) -> None:
    path.unlink()


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "gone")


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def not_readable(path: Path) -> None:
    path.chmod(0o000)


PLACES = {one.__name__.replace("_", " "): one
          for one in (missing, folder_in_its_place, link_to_nothing, link_to_itself, not_readable)}
"""What is done to the place of a file."""


def file_fault(rng: random.Random, path: Path, more: dict[str, Callable[[], None]] | None = None) -> str:
    """Spoil a file; `more` are faults of its own kind, which are drawn as often as all others."""
    if more and rng.random() < 0.5:
        name = rng.choice(sorted(more))
        more[name]()
        return name
    name = rng.choice([*BYTES, *PLACES])
    if name in PLACES:
        PLACES[name](path)
    else:
        path.write_bytes(BYTES[name](rng, path.read_bytes()))
    return name


def dump(path: Path, value: Any) -> None:
    """Write JSON; half of a surrogate pair is written in its escaped form."""
    path.write_text(json.dumps(value), encoding="utf-8")
