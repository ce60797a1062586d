"""What conditions of fewer questions are compared with: `real` of the same questions, and what else a study needs.

Where some examples have no usable text, the prepared folder has more questions in `real` than the synthetic conditions
have. A difference between them would then be one of questions, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import iterate_examples, write_examples
from retrieval_heads.errors import ConfigError
from retrieval_heads.files import writing_whole

SAME_QUESTIONS = ("real", "real_short")
"""Files whose examples are those of the synthetic conditions, by id."""
OTHER_QUESTIONS = ("real_limited",)
"""Files with questions of their own, of which there are to be as many."""
FOLDER = "held_out"


def check_places(real: str | Path, out: str | Path) -> None:
    """Raise `ConfigError` where the matching `real` would replace the file that it is made from."""
    if Path(real).resolve().parent == Path(out).resolve():
        raise ConfigError(
            "examples without a usable text are left out of `real` too, and this would replace the file that is read",
            where="--out", value=str(out), remedy="Give another folder.",
        )


def copy_matching(real: str | Path, out: str | Path, ids: Sequence[str]) -> Iterator[str]:
    """Write `real` and `real_short` of the examples with these ids, `real_limited` of as many, and copy what is held
    out; each where it lies beside `real`. Yields a line on each for the user.

    Raises:
        ConfigError: see `check_places`.
        DataError, ResultError: a file that cannot be read or written.
    """
    check_places(real, out)
    real, out = Path(real), Path(out)
    wanted = set(ids)
    ending = "".join(real.suffixes[-2:] if real.suffix == ".gz" else real.suffixes[-1:])
    for name in (*SAME_QUESTIONS, *OTHER_QUESTIONS):
        path = real if name == "real" else real.with_name(f"{name}{ending}")
        if not path.is_file():
            continue
        examples = iterate_examples(path, limit=None if name in SAME_QUESTIONS else len(ids))
        kept = (one for one in examples if name not in SAME_QUESTIONS or _id(one) in wanted)
        n = write_examples(out / f"{name}{ending}", kept)
        yield f"{name}{ending}: {n} examples, " + (
            "the same questions" if name in SAME_QUESTIONS else "questions of its own, as many at most"
        )
    held_out = sorted((real.parent / FOLDER).glob("*.jsonl*"))
    for path in held_out:
        with path.open("rb") as source, writing_whole(out / FOLDER / path.name) as target:
            shutil.copyfileobj(source, target)
    if held_out:
        yield f"{FOLDER}: {len(held_out)} files copied as they are"


def _id(example: Example) -> str:
    return str(example.meta["id"])
