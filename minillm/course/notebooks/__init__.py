"""Notebooks built from their sources, the same bytes every time."""
