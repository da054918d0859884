"""Scores for an untrusted submission, the wall around it, and the bundles an instructor hands out."""
