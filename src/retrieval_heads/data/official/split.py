"""Which records are for training, probing and testing: no shared question, and as far as possible no shared document.

Held-out records are chosen first, unless the training records are named. Three plans are tried in turn, until there
are enough records:

1. no two sets share a gold document;
2. held-out sets may share some, training shares none with them (topics with a hundred documents that all insights
   share need it);
3. training shares some, too. What is shared is counted and told.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, islice

from retrieval_heads.data.official.assemble import Source
from retrieval_heads.data.official.pinned import named
from retrieval_heads.data.official.pool import text_key
from retrieval_heads.data.official.usable import UnusableRecordError, told
from retrieval_heads.errors import DataError

FEWER = ("Give all official files of the task (`fetch` brings them), lower the numbers here and n_train, n_probe and "
         "n_test in a copy of the profile, or leave the task out of it.")
"""What to do where there are too few records."""

QUESTION_WORDS = ("who", "when", "where", "what", "which", "why", "how")


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

    @property
    def held_out(self) -> list[Source]:
        return [*self.probe, *self.test, *self.dev]

    def shared_gold(self) -> dict[str, int]:
        """By pair of sets, how many gold documents they have in common (`real` and `real_limited` left out)."""
        keys = {name: gold_keys(getattr(self, name)) for name in ("train", "limited", "probe", "test", "dev")
                if getattr(self, name)}
        pairs = [pair for pair in combinations(keys, 2) if pair != ("train", "limited")]
        return {f"{first}-{second}": len(keys[first] & keys[second]) for first, second in pairs}

    def kept_away(self, training: bool) -> frozenset[str]:
        """Keys of the gold documents that stay out of the haystacks of training or of held-out records: those of the
        other side, or none where the two sides share gold documents anyway."""
        other = self.held_out if training else [*self.train, *self.limited]
        return gold_keys(other) if self.apart else frozenset()


def gold_keys(sources: Iterable[Source]) -> frozenset[str]:
    """Keys (`text_key`) of all gold documents of the records."""
    return frozenset(text_key(source.documents[index][1]) for source in sources for index in source.marked)


def group_of(source: Source) -> str:
    """The kind of question by which `real_limited` is limited: question word, number of hops, or subtopic."""
    if "hops" in source.meta:
        return f"{source.meta['hops']}-hop"
    if "subtopic" in source.meta:
        return f"topic {source.meta['topic']}, subtopic {source.meta['subtopic']}"
    words = re.findall(r"[a-z]+", source.question.casefold())
    return next((word for word in words if word in QUESTION_WORDS), "other")


def split(
    sources: Sequence[Source], *, train: int, probe: int, test: int, seed: int, dev: int = 0,
    pinned: Sequence[str] = (),
    check: Callable[[Source, bool], None] = lambda source, training: None, dropped: Counter[str] | None = None,
) -> Split:
    """Split records; insights of one topic are kept together as far as that goes.

    `real_limited` takes as few kinds of question as hold `train` records: the most frequent ones, or for MuSiQue those
    of the fewest hops.

    Args:
        sources: records without a repeated question.
        train, probe, test, dev: how many of each.
        seed: of the order in which records are chosen.
        pinned: ids of the training records, `train` of them; drawn where there are none.
        check: raises `UnusableRecordError` for a record that cannot be used, for training (True) or held out; called
            only for records that are about to be taken.
        dropped: counts the records that `check` refused, by reason; one that is refused twice counts once.

    Raises:
        DataError: too few usable records, a pinned one that is missing or unusable, or `real_limited` would need every
            kind of question.
    """
    reasons: Counter[str] = Counter() if dropped is None else dropped
    chooser = _Chooser(sources, check, reasons, seed)
    fixed = chooser.pinned(named(sources, pinned)) if pinned else []
    for disjoint, apart in ((True, True), (False, True), (False, False)):
        held_out, taken = _held_out(chooser, {"test": test, "probe": probe, "dev": dev}, fixed, disjoint, apart)
        held = gold_keys(chain.from_iterable(held_out.values()))
        trained = fixed or chooser.take(train, taken, held, others=not apart)
        counts = {"train": len(trained), **{name: len(records) for name, records in held_out.items()}}
        if counts == {"train": train, "test": test, "probe": probe, "dev": dev}:
            break
    else:
        names = ("train", "probe", "test", *(["dev"] if dev else []))
        raise DataError(
            f"{' + '.join(str(counts[name]) for name in names)} of {len(sources)} records are usable (left out: "
            f"{told(reasons) or 'none'})", where=f"{sources[0].task}: {' + '.join(names)}" if sources else "records",
            value=" + ".join(str({"train": train, "test": test, "probe": probe, "dev": dev}[name]) for name in names),
            remedy=f"{FEWER} Or lower the lengths.",
        )
    limited, groups = _limited(chooser, train, taken - {source.id for source in fixed}, held, not apart)
    return Split(trained, limited, held_out["probe"], held_out["test"], groups,
                 not gold_keys([*trained, *limited]) & held, held_out["dev"])


def _held_out(
    chooser: _Chooser, numbers: dict[str, int], fixed: Sequence[Source], disjoint: bool, apart: bool,
) -> tuple[dict[str, list[Source]], set[str]]:
    """The held-out sets under a plan, and the ids that are taken by them and by the fixed training records."""
    taken, held = {source.id for source in fixed}, gold_keys(fixed)
    parts: dict[str, list[Source]] = {}
    for name, n in numbers.items():
        parts[name] = chooser.take(n, taken, held, others=not apart, training=False)
        taken |= {source.id for source in parts[name]}
        held |= gold_keys(parts[name]) if disjoint else frozenset()
    return parts, taken


class _Chooser:
    """Records in a seeded order, those of a topic one after the other."""

    def __init__(
        self, sources: Sequence[Source], check: Callable[[Source, bool], None], dropped: Counter[str], seed: int,
    ) -> None:
        rng = random.Random(f"split:{seed}")
        clusters: dict[str, list[Source]] = {}
        for source in sources:
            clusters.setdefault(source.meta.get("topic", source.id), []).append(source)
        self.order = [
            source for name in rng.sample(sorted(clusters), len(clusters))
            for source in rng.sample(clusters[name], len(clusters[name]))
        ]
        self.keys = {source.id: gold_keys([source]) for source in self.order}
        self._check, self._dropped, self._known, self._refused = check, dropped, {}, set()

    def pinned(self, sources: list[Source]) -> list[Source]:
        """The same records; `DataError` where one cannot be used for training."""
        useless = [source.id for source in sources if not self.usable(source)]
        if useless:
            raise DataError(
                f"{len(useless)} of the {len(sources)} named training questions cannot be used ({told(self._dropped)})",
                where="--train-ids", value=useless[:5], remedy="Leave them out of the list, or change the lengths.",
            )
        return sources

    def take(
        self, n: int, taken: set[str], held: frozenset[str], others: bool = False, *, training: bool = True,
    ) -> list[Source]:
        """The first `n` usable records outside `taken`, without gold documents in `held`; then those with, if asked."""
        return list(islice((source for source in self.open(taken, held, others) if self.usable(source, training)), n))

    def open(self, taken: set[str], held: frozenset[str], others: bool) -> Iterator[Source]:
        """The records that may be taken, usable or not."""
        left = [source for source in self.order if source.id not in taken]
        yield from (source for source in left if not self.keys[source.id] & held)
        if others:
            yield from (source for source in left if self.keys[source.id] & held)

    def usable(self, source: Source, training: bool = True) -> bool:
        """Whether a record can be made into an example, for training or held out; checked once."""
        key = (source.id, training)
        if key not in self._known:
            try:
                self._check(source, training)
                self._known[key] = True
            except UnusableRecordError as error:
                if source.id not in self._refused:
                    self._dropped[error.reason] += 1
                    self._refused.add(source.id)
                self._known[key] = False
        return self._known[key]


def _limited(
    chooser: _Chooser, n: int, taken: set[str], held: frozenset[str], others: bool,
) -> tuple[list[Source], dict[str, int]]:
    candidates = list(chooser.open(taken, held, others))
    sizes = Counter(map(group_of, candidates))
    by_hops = "hops" in candidates[0].meta
    ranked = sorted(sizes, key=lambda group: (group,) if by_hops else (-sizes[group], group))
    limited: list[Source] = []
    for group in ranked[:-1]:
        members = (source for source in candidates if group_of(source) == group and chooser.usable(source))
        limited += islice(members, n - len(limited))
        if len(limited) == n:
            return limited, dict(Counter(map(group_of, limited)))
    raise DataError(
        f"real_limited would need every kind of question ({len(sizes)} of them) for its {n} records", where="train",
        value=n, remedy="Lower the number of training examples, or give more records.",
    )
