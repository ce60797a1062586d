"""What each training set teaches a model, and which retrieval heads of the real task it misses."""

from retrieval_heads.diagnose.inputs import Request
from retrieval_heads.diagnose.job import diagnose, plan

__all__ = ["Request", "diagnose", "plan"]
