"""An order of candidate training sets from as little work as possible, with what the report found such orders worth."""

from retrieval_heads.rank.job import Request, rank_sets

__all__ = ["Request", "rank_sets"]
