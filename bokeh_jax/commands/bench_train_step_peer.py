"""The child process in which torch takes its turns; it waits while ours are timed."""

import contextlib
import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bokeh_jax.errors import InvalidInput

_PROGRAM = Path(__file__).with_name("bench_train_step_torch.py")
_NEEDED = "import diffusers, torch; diffusers.FluxTransformer2DModel"


def check_python(python: str) -> None:
    """Raise InvalidInput where `python` cannot run the other side."""
    try:
        found = subprocess.run([python, "-c", _NEEDED], capture_output=True, text=True)
    except OSError as error:
        raise InvalidInput(
            f"--torch-python is {python}, which does not start ({error.strerror}); allowed: a "
            "Python with torch and diffusers"
        ) from None
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no message"])[-1]
        raise InvalidInput(
            f"torch and diffusers are needed in {python} ({reason}): pip install "
            "'bokeh-jax[interop]', name a Python that has them with --torch-python, or use --alone"
        )


@dataclasses.dataclass(frozen=True)
class Peer:
    """The started child; `told` is what it said of its network."""

    process: "subprocess.Popen[str]"
    messages: IO[str]
    told: dict[str, Any]

    def ask(self, what: str) -> dict[str, Any]:
        """One line to the child, one answer from it.

        Raises:
            InvalidInput: the child has ended; with the last line that it wrote.
        """
        assert self.process.stdin is not None
        # Where the child has ended its answer is missing too, and says why.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(what + "\n")
        return _answer(self.process, self.messages)


@contextlib.contextmanager
def started(python: str, setting: dict[str, Any]) -> Iterator[Peer]:
    """The child, once its network stands, on the cores that this process may use; ended after."""
    command = [python, str(_PROGRAM), json.dumps(setting)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as messages:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            bufsize=1,
        )
        try:
            yield Peer(process, messages, _answer(process, messages))
        finally:
            process.kill()
            process.communicate()  # Closes the pipes too.


def _answer(process: "subprocess.Popen[str]", messages: IO[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line:
        return json.loads(line)
    code = process.wait()
    messages.seek(0)
    last = (messages.read().strip().splitlines() or ["it said nothing"])[-1]
    raise InvalidInput(
        f"the torch side ended with code {code} ({last}); allowed: a setting that torch can run"
    )
