"""Decide the claims on the pretrained model by the rules of `book/preregistration_pretrained.md`.

For a profile that measures losses of the gold answer (`gold_loss`). Like the stage `claims`, it needs tables only.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from retrieval_heads.claims.pretrained import judge as rules
from retrieval_heads.claims.verdict import as_rows
from retrieval_heads.keys import Options, table_path
from retrieval_heads.manifest import Facts
from retrieval_heads.settings import Profile
from retrieval_heads.stages import base, data, finetune, gold_loss
from retrieval_heads.stages.common import EVERYTHING
from retrieval_heads.store import Store
from retrieval_heads.tables import read_table


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the tables that the verdicts follow from, then the derived ones and the verdicts; the paths of the latter.

    Nothing for a profile without `gold_loss`, whose claims the stage `claims` decides.

    Raises:
        ResultError: runs failed, or were made with other settings.
    """
    if profile.gold_loss is None:
        return []
    for stage in (base, data, finetune, gold_loss):
        stage.run(profile, options)
    return judge(profile)


def judge(profile: Profile) -> list[Path]:
    """Make the derived tables and the verdicts from the merged tables that are there; their paths.

    A table that is not there leaves its claims undecided: the runs come in parts.

    Raises:
        ResultError: a table that does not follow the data dictionary, or tables that contradict each other.
    """
    store = Store.open(profile)
    with store.merging():
        given = {name: _table(profile, name) for name in rules.RAW}
        made, verdicts = rules.judge(given)
        made["verdicts"] = as_rows(verdicts)
        for name, rows in made.items():
            store.write_part(name, "all", rows, Facts(device="cpu", seeds=(0,)))
        return [store.merge(name, ["all"]) for name in made]


def _table(profile: Profile, name: str) -> pd.DataFrame:
    path = table_path(profile.name, name)
    return read_table(name, path) if path.is_file() else pd.DataFrame()
