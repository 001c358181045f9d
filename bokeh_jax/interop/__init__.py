"""Weights of other libraries in, ours out: names, files, nothing that computes."""
