"""Who makes the shards: this process, processes beside it, or an Apache Beam runner.

All make the same files, because a shard is a function of the job and its key. Processes are
spawned, never forked: a fork under JAX's threads can deadlock. Each has a pipe to its parent: down
it come the keys of shards, one at a time, and back what has become of every candidate. A process
whose parent is gone ends on its next message.
"""

import collections
import contextlib
import functools
import io
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import cv2

from bokeh_jax.errors import InvalidInput
from data_pipeline.shards import OnCandidate, ShardJob, ShardKey, make_shard

_FINISHED = "finished"


def run_local(
    job: ShardJob, keys: Sequence[ShardKey], num_workers: int, on_candidate: OnCandidate
) -> None:
    """Make shards in `num_workers` processes; in this one when 0.

    Args:
        job: what the shards are made from.
        keys: which shards.
        num_workers: processes.
        on_candidate: called in this process after every candidate; what it raises ends the run.

    Raises:
        Whatever the source raises, whichever process it was raised in.
        RuntimeError: a process ended before its work did.
    """
    num_workers = min(num_workers, len(keys))
    if num_workers == 0:
        for key in keys:
            make_shard(job, key, on_candidate)
        return
    waiting = collections.deque(keys)
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, Any] = {}
    try:
        for _ in range(num_workers):
            connection, far_end = context.Pipe()
            process = context.Process(target=_work, args=(job, far_end), daemon=True)
            with _without_accelerators():
                process.start()
            processes[connection] = process
            # The worker's copy is now the only one, so that its end is seen as the pipe's.
            far_end.close()
            connection.send(waiting.popleft())
        _serve(processes, waiting, on_candidate)
    finally:
        for connection in processes:
            connection.close()
        for process in processes.values():
            process.terminate()
            process.join()


@contextlib.contextmanager
def _without_accelerators() -> Iterator[None]:
    """Processes that start here compute on the processor: accelerators serve one process each."""
    before = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        if before is None:
            del os.environ["JAX_PLATFORMS"]
        else:
            os.environ["JAX_PLATFORMS"] = before


def _serve(
    processes: dict[Connection, Any],
    waiting: collections.deque[ShardKey],
    on_candidate: OnCandidate,
) -> None:
    """Hand out shards until none is left and all processes are done."""
    busy = set(processes)
    while busy:
        for connection in multiprocessing.connection.wait(list(busy)):
            assert isinstance(connection, Connection)
            try:
                message = connection.recv()
            except (EOFError, ConnectionResetError):
                processes[connection].join()
                raise RuntimeError(
                    "a process that makes scenes ended before its work did "
                    f"(exit code {processes[connection].exitcode}); a next build continues"
                ) from None
            if isinstance(message, BaseException):
                raise message
            if message != _FINISHED:
                on_candidate(message)
            elif waiting:
                connection.send(waiting.popleft())
            else:
                busy.remove(connection)


def _work(job: ShardJob, connection: Connection) -> None:
    """Run in a worker: make the shards whose keys arrive; an exception is sent to the parent."""
    # An interrupt from the keyboard reaches all processes; the parent is the one that answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The processes share the cores already.
    cv2.setNumThreads(1)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            key = connection.recv()
            try:
                make_shard(job, key, connection.send)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                connection.send(_portable(error))
                return
            connection.send(_FINISHED)


def _portable(error: Exception) -> Exception:
    """Return the exception, or one that says the same where it cannot travel between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def run_beam(
    job: ShardJob, keys: Sequence[ShardKey], runner: str, options: Sequence[str] = ()
) -> None:
    """Make shards with an Apache Beam runner, which writes into the job's folder by itself.

    Args:
        job: what the shards are made from; its folder must be one that the runner's machines see.
        keys: which shards.
        runner: name of a Beam runner: DirectRunner, FlinkRunner, SparkRunner, DataflowRunner, ...
        options: command-line options of Beam, such as "--region=europe-west1".

    Raises:
        InvalidInput: Beam is not installed, or refuses the runner or an option; or as the source.
    """
    try:
        import apache_beam as beam
        from apache_beam.runners.runner import create_runner
    except ImportError:
        raise InvalidInput(
            f"runner is {runner}, and Apache Beam is not installed; "
            "allowed: none, or with the extra beam: pip install 'bokeh-jax[beam]'"
        ) from None
    if not keys:
        return
    try:
        chosen = create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise InvalidInput(
            f"runner is {runner!r} ({' '.join(str(error).split())}); allowed: a runner that Beam "
            "has, such as DirectRunner, FlinkRunner, SparkRunner, DataflowRunner"
        ) from error
    parsed = _beam_options(runner, options)
    try:
        with beam.Pipeline(runner=chosen, options=parsed) as pipeline:
            # Reshuffle: otherwise a runner may fuse all into one worker.
            _ = (
                pipeline
                | "Shards" >> beam.Create(list(keys))
                | "Spread" >> beam.Reshuffle()
                | "Make" >> beam.Map(functools.partial(_make_remotely, job))
            )
    except Exception as error:
        # Runners report a worker's exception with words added, or as text in one of their own.
        text = f"{type(error).__name__}: {error}"
        refused = re.search(rf"{InvalidInput.__name__}: (.+?)( \[while running|\n|$)", text)
        if refused:
            raise InvalidInput(refused[1]) from error
        raise


def _beam_options(runner: str, options: Sequence[str]) -> Any:
    """Parse options of Beam; a wrong one is refused in one line."""
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = list(options)
    if runner == "DirectRunner":
        # Otherwise Beam first tries to download another runner, a program in Go. There are no
        # triggers here to be unsafe.
        flags.append("--allow_unsafe_triggers")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = PipelineOptions(flags)
            parsed.get_all_options()
    except SystemExit:
        # Beam's parser prints its usage and ends the program.
        line = said.getvalue().strip().rpartition("error: ")[2]
        raise InvalidInput(f"beam_options are wrong: {line}; allowed: options of Beam") from None
    return parsed


def _make_remotely(job: ShardJob, key: ShardKey) -> int:
    """Make a shard on a Beam worker; its sidecar tells the builder what is in it."""
    cv2.setNumThreads(1)
    return len(make_shard(job, key).scenes)
