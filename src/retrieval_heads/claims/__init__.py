"""The claims, decided by the rules of `book/preregistration.md` from the tables of the stages.

Everywhere here tables have the columns of the data dictionary, and `n_resamples` and `n_permutations` are numbers of
samples. `store.load_table` sees to it that they do and that no two rows have one key; tables that contradict each other
are a `ResultError`.
"""
