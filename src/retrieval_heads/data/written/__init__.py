"""Synthetic training sets made from real training questions: needles written by a language model, templates, or codes.

`real.py` takes a real example apart, `conditions.py` and `scenes.py` put the synthetic ones together; what a language
model writes is asked and checked by `orders.py`, and comes through `writers.py` (an endpoint, a batch, a file),
`client.py` (the endpoint) and `cache.py` (nothing is paid for twice).
"""
