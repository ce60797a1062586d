"""The sentences of the boxes at the head of the chapters, made from tables of any profile; no number is written here.

Every function returns sentences, the most important first. What a small study does not have is left out.
"""

from __future__ import annotations

from retrieval_heads.wording import listed, p_value

__all__ = ["listed", "p_value"]
