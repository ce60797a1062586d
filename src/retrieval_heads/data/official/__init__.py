"""The official evaluation files as examples: multi-document question answering, MuSiQue, Summary of a Haystack."""

from retrieval_heads.data.official.questions import iterate_mdqa, iterate_musique, load_mdqa, load_musique
from retrieval_heads.data.official.summhay import iterate_summhay, load_summhay

__all__ = ["iterate_mdqa", "iterate_musique", "iterate_summhay", "load_mdqa", "load_musique", "load_summhay"]
