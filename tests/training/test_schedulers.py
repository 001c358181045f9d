"""How a process finds its job: the environments of Slurm, GKE and TPU VMs, with real processes."""

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest

from bokeh_jax.training.schedulers import sign_of_a_job

ROOT = Path(__file__).parent.parent.parent
NO_TPU = {"TPU_SKIP_MDS_QUERY": "1"}


@pytest.mark.parametrize(
    ("environment", "sign"),
    [
        (NO_TPU, None),
        ({}, "a TPU VM"),
        ({"JAX_PLATFORMS": "tpu,cpu"}, "a TPU VM"),
        ({"JAX_PLATFORMS": "cpu"}, None),
        (NO_TPU | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (NO_TPU | {"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS is 4"),
        (NO_TPU | {"SLURM_STEP_NUM_TASKS": "x"}, None),
        (NO_TPU | {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (NO_TPU | {"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_HOSTNAMES is a,b"),
        (NO_TPU | {"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, "TPU_PROCESS_ADDRESSES is a:1,b:1"),
        (NO_TPU | {"MEGASCALE_NUM_SLICES": "2"}, "MEGASCALE_NUM_SLICES is 2"),
        (NO_TPU | {"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE is 2"),
        (NO_TPU | {"PMI_SIZE": "2"}, "PMI_SIZE is 2"),
        (NO_TPU | {"JOB_COMPLETION_INDEX": "0"}, None),
        (NO_TPU | {"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETION_INDEX is 1"),
    ],
)
def test_a_job_of_several_processes_has_its_sign(environment, sign):
    assert sign_of_a_job(environment) == sign


def test_jax_notes_that_there_is_no_tpu_in_this_machine():
    assert jax.default_backend() == "cpu"
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"


# As `train` begins, without the training. `JAX_FORCE_TPU_INIT` makes JAX believe in a TPU machine;
# the devices are CPUs all the same.
JOIN = """
import os, sys
import jax
from bokeh_jax.command_line import EXIT_INVALID_INPUT
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.hosts import Hosts, check_agreement, join
if "ON_TPU_VM" in os.environ:
    del os.environ["TPU_SKIP_MDS_QUERY"]  # Which JAX sets only where there are no chips.
jax.config.update("jax_platforms", "cpu")
try:
    join(Hosts(timeout_seconds=100))
    check_agreement({"config": "the same"})
except InvalidInput as error:
    print(error, file=sys.stderr)
    sys.exit(EXIT_INVALID_INPUT)
print(jax.process_index(), jax.process_count())
"""


def start(environment):
    known = {name: value for name, value in os.environ.items() if name not in NO_TPU}
    return subprocess.Popen(
        [sys.executable, "-c", JOIN],
        cwd=ROOT,
        env=known | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Metadata(http.server.BaseHTTPRequestHandler):
    """What Google's metadata server says to a TPU worker: every one has its own."""

    def do_GET(self):
        known = {
            "agent-worker-number": str(self.server.worker),  # type: ignore[attr-defined]
            "worker-network-endpoints": "unknown:unknown:127.0.0.1,unknown:unknown:127.0.0.1",
            "tpu-env": "ACCELERATOR_TYPE: 'v5p-16'\n",
        }
        text = known.get(self.path.rsplit("/", 1)[1])
        assert self.headers["Metadata-Flavor"] == "Google"
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def metadata_server(worker):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        server.worker = worker  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def slurm(index):
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }


def gke_slice(index):
    return {
        "JAX_FORCE_TPU_INIT": "1",
        "TPU_WORKER_HOSTNAMES": "localhost,localhost",
        "TPU_WORKER_ID": str(index),
    }


def gke_two_slices(index):
    return {
        "JAX_FORCE_TPU_INIT": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": str(index),
    }


def tpu_vm(index):
    del index  # The metadata server says it.
    return {"ON_TPU_VM": "1", "JAX_FORCE_TPU_INIT": "1", "JAX_PLATFORMS": ""}


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def metadata_servers():
    with metadata_server(0) as first, metadata_server(1) as second:
        yield first, second


def test_processes_of_every_scheduler_find_each_other(metadata_servers):
    schedulers = (slurm, gke_slice, gke_two_slices, tpu_vm)
    with contextlib.ExitStack() as ended:
        jobs = [
            ended.enter_context(
                start(
                    describe(index) | {"JAX_COORDINATOR_PORT": str(port), "GCE_METADATA_IP": server}
                )
            )
            for describe, port in zip(schedulers, free_ports(len(schedulers)), strict=True)
            for index, server in enumerate(metadata_servers)
        ]
        # Nothing says where the others are.
        lost = ended.enter_context(start({"SLURM_STEP_NUM_TASKS": "2"}))
        for process in (*jobs, lost):
            ended.callback(process.kill)
        for place, process in enumerate(jobs):
            out, said = process.communicate(timeout=200)
            describe, index = schedulers[place // 2].__name__, place % 2
            assert process.returncode == 0, (describe, said[-2000:])
            assert out.split()[-2:] == [str(index), "2"], describe
            assert f"process {index}: one of 2, on " in said
        _, said = lost.communicate(timeout=200)
    assert lost.returncode == 2, said
    assert "one of several (SLURM_STEP_NUM_TASKS is 2), but JAX does not find the others" in said
