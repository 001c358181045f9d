"""Rectified flow: corruption, time sampling, prediction conversions and samplers.

Imports nothing else of the project, so that it can be lifted out whole.
"""
