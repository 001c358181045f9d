"""Stands before the real one on the path of the jobs that tests start.

Training needs no torch, but TensorBoard's writer imports it where it is installed: half of a job's
start-up time.
"""

raise ImportError("no torch in this job")
