"""The claims, decided by the rules of `book/preregistration.md` from the tables of the stages."""
