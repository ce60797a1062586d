"""The claims, decided by the rules of `book/preregistration.md` from the tables of the stages.

Everywhere here tables have the columns of the data dictionary, and `n_resamples` and `n_permutations` are numbers of
samples. A table that does not follow the data dictionary, or contradicts itself, is a `ResultError`.
"""
