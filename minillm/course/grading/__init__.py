"""Scores for a submission nobody trusts, the wall around it, and the bundles an instructor hands out."""
