"""Trainable, physically exact control of focus and aperture, in JAX."""
