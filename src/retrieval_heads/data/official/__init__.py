"""The official evaluation files as examples: multi-document question answering, MuSiQue, Summary of a Haystack."""

from retrieval_heads.data.official.mdqa import load_mdqa
from retrieval_heads.data.official.musique import load_musique
from retrieval_heads.data.official.summhay import load_summhay

__all__ = ["load_mdqa", "load_musique", "load_summhay"]
