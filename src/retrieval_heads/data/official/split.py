"""Which records are for training, probing and testing: no shared question, and as far as possible no shared document.

Held-out records are chosen first, unless records are named. Three plans are tried in turn, until there
are enough records:

1. no two sets share a gold document;
2. held-out sets may share some, training shares none with them (topics with a hundred documents that all insights
   share need it);
3. training shares some, too. What is shared is counted and told.

Which gold documents are kept out of a record's haystack follows from the split. So a record whose haystack they leave
too small is given up, and the records are split again without it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, islice

from retrieval_heads.data.official.formats import Source, UnusableRecordError
from retrieval_heads.data.official.loaders import told
from retrieval_heads.data.official.sources import text_key
from retrieval_heads.errors import DataError

FEWER = ("Give all official files of the task (`fetch` brings them), lower the numbers here and n_train, n_probe and "
         "n_test in a copy of the profile, or leave the task out of it.")
"""What to do where there are too few records."""

TRAINING = ("train", "limited")
"""The sets that are not held out."""

QUESTION_WORDS = ("who", "when", "where", "what", "which", "why", "how")

Room = Callable[[Source, bool, frozenset[str]], None]
"""Raises `UnusableRecordError` for a record that has no example at the wanted lengths, those of training (True) or of
held-out examples, given keys of texts that are kept out of its haystack."""


@dataclass(frozen=True)
class Split:
    """Records of each set.

    Attributes:
        train, limited: for `real` and `real_limited`; the two may have records in common.
        probe, test, dev: held out; `dev` is for settings, so that `test` decides nothing, and may be empty.
        groups: the kinds of question that `limited` is drawn from, with the number of its records.
        apart: whether training and held-out records share no gold document.
    """

    train: list[Source]
    limited: list[Source]
    probe: list[Source]
    test: list[Source]
    groups: dict[str, int]
    apart: bool
    dev: list[Source] = field(default_factory=list)

    def side(self, training: bool) -> list[Source]:
        """All records for training, or all that are held out."""
        return [*self.train, *self.limited] if training else [*self.probe, *self.test, *self.dev]

    def shared_gold(self) -> dict[str, int]:
        """By pair of sets, how many gold documents they have in common (`real` and `real_limited` left out)."""
        keys = {name: gold_keys(getattr(self, name)) for name in ("train", "limited", "probe", "test", "dev")
                if getattr(self, name)}
        pairs = [pair for pair in combinations(keys, 2) if pair != ("train", "limited")]
        return {f"{first}-{second}": len(keys[first] & keys[second]) for first, second in pairs}

    def kept_away(self, training: bool) -> frozenset[str]:
        """Keys of the gold documents that stay out of the haystacks of training or of held-out records: those of the
        other side, or none where the two sides share gold documents anyway."""
        return gold_keys(self.side(not training)) if self.apart else frozenset()


def gold_keys(sources: Iterable[Source]) -> frozenset[str]:
    """Keys (`text_key`) of all gold documents of the records."""
    return frozenset(text_key(source.documents[index][1]) for source in sources for index in source.marked)


def group_of(source: Source) -> str:
    """The kind of question: its question word, number of hops, or subtopic."""
    if "hops" in source.meta:
        return f"{source.meta['hops']}-hop"
    if "subtopic" in source.meta:
        return f"topic {source.meta['topic']}, subtopic {source.meta['subtopic']}"
    words = re.findall(r"[a-z]+", source.question.casefold())
    return next((word for word in words if word in QUESTION_WORDS), "other")


def split(
    sources: Sequence[Source], room: Room = lambda *_: None, *, train: int, probe: int, test: int, seed: int,
    dev: int = 0, pinned: Mapping[str, Sequence[str]] | None = None, dropped: Counter[str] | None = None,
) -> Split:
    """Split records; insights of one topic are kept together as far as that goes.

    `real_limited` takes as few kinds of question as hold `train` records: the most frequent ones, or for MuSiQue those
    of the fewest hops.

    Args:
        sources: records without a repeated question.
        room: asked only about records that are about to be taken.
        pinned: ids of the records of some sets (those of `Split`), as many as the set has; the others are drawn.
        dropped: counts the records that had no room, by reason; one that is refused twice counts once.

    Raises:
        DataError: too few usable records, a pinned one that is missing or unusable, or `real_limited` would need every
            kind of question.
    """
    chooser = _Chooser(sources, room, seed)
    while True:
        parts = _split(chooser, {"test": test, "probe": probe, "dev": dev}, train, pinned or {})
        crowded = [
            chooser.refuse(source, training, apart)
            for training in (True, False) for apart in [parts.kept_away(training)] for source in parts.side(training)
        ]
        if not any(crowded):
            if dropped is not None:
                dropped.update(chooser.refused.values())
            return parts
        chooser.refused.clear()


def _split(chooser: _Chooser, numbers: dict[str, int], train: int, pinned: Mapping[str, Sequence[str]]) -> Split:
    fixed = {name: chooser.pinned(name, ids) for name, ids in pinned.items() if ids}
    named = list(chain.from_iterable(fixed.values()))
    own = {source.id for name in TRAINING for source in fixed.get(name, [])}
    for disjoint, apart in ((True, True), (False, True), (False, False)):
        parts, taken, held = {}, {source.id for source in named}, gold_keys(named)
        for name, n in numbers.items():
            parts[name] = fixed.get(name) or chooser.take(n, taken, held, others=not apart, training=False)
            taken |= {source.id for source in parts[name]}
            held |= gold_keys(parts[name]) if disjoint else frozenset()
        held = gold_keys(chain.from_iterable(parts.values()))
        parts["train"] = fixed.get("train") or chooser.take(train, taken, held, others=not apart)
        wanted = numbers | {"train": train}
        if all(len(parts[name]) == n for name, n in wanted.items()):
            break
    else:
        names = ("train", "probe", "test", *(["dev"] if wanted["dev"] else []))
        raise DataError(
            f"{' + '.join(str(len(parts[name])) for name in names)} of {len(chooser.order)} records are usable "
            f"(left out: {told(Counter(chooser.refused.values())) or 'none'})",
            where=f"{chooser.order[0].task}: {' + '.join(names)}" if chooser.order else "records",
            value=" + ".join(str(wanted[name]) for name in names), remedy=f"{FEWER} Or lower the lengths.",
        )
    limited = fixed.get("limited") or chooser.limited(train, taken - own, held, not apart)
    return Split(**parts, limited=limited, groups=dict(Counter(map(group_of, limited))),
                 apart=not gold_keys([*parts["train"], *limited]) & held)


class _Chooser:
    """Records in a seeded order, those of a topic one after the other; `refused` has by id why one had no room."""

    def __init__(self, sources: Sequence[Source], room: Room, seed: int) -> None:
        rng = random.Random(f"split:{seed}")
        clusters: dict[str, list[Source]] = {}
        for source in sources:
            clusters.setdefault(source.meta.get("topic", source.id), []).append(source)
        self.order = [
            source for name in rng.sample(sorted(clusters), len(clusters))
            for source in rng.sample(clusters[name], len(clusters[name]))
        ]
        self.refused: dict[str, str] = {}
        self._keys = {source.id: gold_keys([source]) for source in self.order}
        self._room, self._problems = room, dict[tuple[str, bool], str | None]()

    def pinned(self, name: str, ids: Sequence[str]) -> list[Source]:
        """The records of these ids, in their order; `DataError` where one is missing or cannot be used for the set."""
        by_id = {source.id: source for source in self.order}
        absent = [one for one in ids if one not in by_id]
        if absent:
            raise DataError(
                f"{len(absent)} of the {len(ids)} named questions are not among the usable records",
                where=f"ids of {name}", value=absent[:5],
                remedy="Give the official files that the ids were made from, under the same names; a question that "
                "several files ask has the id of the record with the most documents.",
            )
        useless = [one for one in ids if not self.usable(by_id[one], name in TRAINING)]
        if useless:
            raise DataError(
                f"{len(useless)} of the {len(ids)} named questions cannot be used "
                f"({told(Counter(self.refused.values()))})", where=f"ids of {name}", value=useless[:5],
                remedy="Leave them out of the list, or change the lengths.",
            )
        return [by_id[one] for one in ids]

    def take(
        self, n: int, taken: set[str], held: frozenset[str], others: bool = False, *, training: bool = True,
    ) -> list[Source]:
        """The first `n` usable records outside `taken`, without gold documents in `held`; then those with, if asked."""
        return list(islice((source for source in self.open(taken, held, others) if self.usable(source, training)), n))

    def open(self, taken: set[str], held: frozenset[str], others: bool) -> Iterator[Source]:
        """The records that may be taken, usable or not."""
        left = [source for source in self.order if source.id not in taken]
        yield from (source for source in left if not self._keys[source.id] & held)
        if others:
            yield from (source for source in left if self._keys[source.id] & held)

    def limited(self, n: int, taken: set[str], held: frozenset[str], others: bool) -> list[Source]:
        """`n` usable records of as few kinds of question as hold so many."""
        candidates = list(self.open(taken, held, others))
        sizes = Counter(map(group_of, candidates))
        by_hops = "hops" in candidates[0].meta
        ranked = sorted(sizes, key=lambda group: (group,) if by_hops else (-sizes[group], group))
        limited: list[Source] = []
        for group in ranked[:-1]:
            members = (source for source in candidates if group_of(source) == group and self.usable(source))
            limited += islice(members, n - len(limited))
            if len(limited) == n:
                return limited
        raise DataError(
            f"real_limited would need every kind of question ({len(sizes)} of them) for its {n} records", where="train",
            value=n, remedy="Lower the number of training examples, or give more records.",
        )

    def usable(self, source: Source, training: bool = True) -> bool:
        """Whether a record has room, for training or held out; looked at once."""
        if (source.id, training) not in self._problems:
            self.refuse(source, training, frozenset())
        problem = self._problems[source.id, training]
        if problem is not None:
            self.refused.setdefault(source.id, problem)
        return problem is None

    def refuse(self, source: Source, training: bool, apart: frozenset[str]) -> bool:
        """Whether a record has no room without the documents of `apart`, which is remembered."""
        problem = None
        try:
            self._room(source, training, apart)
        except UnusableRecordError as error:
            problem = error.problem
        self._problems[source.id, training] = problem
        return problem is not None
