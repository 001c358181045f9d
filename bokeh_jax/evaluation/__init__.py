"""Scores of checkpoints on held-out scenes, and the report."""
