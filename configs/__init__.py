"""Experiments, one file each: sparse changes over the typed defaults."""
