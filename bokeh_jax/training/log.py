"""Lines of a run's log: of the job, said once, or of one process, which names itself."""

import sys

import jax


def log(text: str) -> None:
    """What concerns the whole job is said by its first process, on stdout."""
    if jax.process_index() == 0:
        print(text, flush=True)


def log_of_process(text: str) -> None:
    """What concerns one process is said by that process, on stderr."""
    print(f"process {jax.process_index()}: {text}", file=sys.stderr, flush=True)
