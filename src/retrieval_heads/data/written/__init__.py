"""Synthetic training sets made from real training questions: needles written by a language model, templates, or codes.

`real.py` takes a real example apart, `conditions.py` puts the synthetic ones together; what a language model writes
comes through `author.py` (ask, check, ask again), `client.py` (endpoint) and `cache.py` (nothing is paid for twice).
"""

from __future__ import annotations
