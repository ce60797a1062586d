"""The official evaluation files as examples: multi-document question answering, MuSiQue, Summary of a Haystack."""

from retrieval_heads.data.official.loaders import (
    iterate_mdqa,
    iterate_musique,
    iterate_summhay,
    load_mdqa,
    load_musique,
    load_summhay,
)

__all__ = ["iterate_mdqa", "iterate_musique", "iterate_summhay", "load_mdqa", "load_musique", "load_summhay"]
