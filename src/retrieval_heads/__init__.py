"""Study of synthetic context extension through retrieval heads."""
