"""Figures of the study: functions from tidy tables (`tables.yaml`) to matplotlib axes; no result is computed here.

Every function takes an axis or makes one, and returns it. `style.py` holds what all figures share.
"""
