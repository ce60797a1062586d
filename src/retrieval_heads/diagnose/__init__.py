"""What each training set teaches a model, and which retrieval heads of the real task it misses."""

from __future__ import annotations

from retrieval_heads.diagnose.job import diagnose
from retrieval_heads.diagnose.plan import plan
from retrieval_heads.diagnose.request import Request

__all__ = ["Request", "diagnose", "plan"]
