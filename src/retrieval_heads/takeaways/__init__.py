"""The sentences of the boxes at the head of the chapters, made from tables of any profile; no number is written here.

Every function returns sentences, the most important first. What a small study does not have is left out.
"""
