"""An order of candidate training sets from as little work as possible, with what the report found such orders worth."""

from __future__ import annotations

from retrieval_heads.rank.job import rank_sets
from retrieval_heads.rank.request import Request

__all__ = ["Request", "rank_sets"]
