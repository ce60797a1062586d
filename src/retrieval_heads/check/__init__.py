"""What can be said of files of examples before anything is trained on them: is each line usable, and is it sound."""

from retrieval_heads.check.findings import check_files

__all__ = ["check_files"]
