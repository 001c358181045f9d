"""Was this process started as one of several? What Slurm, GKE, a TPU VM or mpirun leave behind.

JAX can find the other processes by itself (`jax._src.clusters`), but has to be told to look. Told
in vain, it fails; not told, each of N processes trains alone and writes over the others. So this
errs on the side of looking.

| started by | JAX reads | seen here by |
|---|---|---|
| `srun` | the step's `SLURM_*` | `SLURM_STEP_NUM_TASKS` |
| GKE, a TPU slice | `TPU_WORKER_HOSTNAMES`, `TPU_WORKER_ID` | the number of names |
| GKE, several slices | also `MEGASCALE_*` | `MEGASCALE_NUM_SLICES` |
| an Indexed Job without TPUs | the Kubernetes API (package `kubernetes`) | `JOB_COMPLETION_INDEX` |
| TPU VM | the metadata server | TPU chips in this machine |
| `mpirun` | `OMPI_*` | `OMPI_COMM_WORLD_SIZE`, `PMI_SIZE` |
"""

from collections.abc import Callable, Mapping


def _number(value: str) -> int:
    return int(value) if value.isdigit() else 0


def _names(value: str) -> int:
    return len(value.split(",")) if value else 0


# At least how many processes the job has, by what a variable says. Pod 0 of an Indexed Job cannot
# know that there are others, but they can.
_PROCESSES: dict[str, Callable[[str], int]] = {
    "SLURM_STEP_NUM_TASKS": _number,
    "MEGASCALE_NUM_SLICES": _number,
    "TPU_PROCESS_ADDRESSES": _names,
    "TPU_WORKER_HOSTNAMES": _names,
    "OMPI_COMM_WORLD_SIZE": _number,
    "PMI_SIZE": _number,
    "JOB_COMPLETION_INDEX": lambda value: _number(value) + 1,
}


def sign_of_a_job(environment: Mapping[str, str]) -> str | None:
    """What says that this process belongs to a job that JAX has to be told to look for.

    Args:
        environment: of the process, after JAX was imported: JAX notes there that a machine has no
            TPU (`TPU_SKIP_MDS_QUERY`, also how GKE forbids to ask the metadata server).

    Returns:
        Words for a line of the log, such as `SLURM_STEP_NUM_TASKS is 4`; None for a process alone.
    """
    for name, count in _PROCESSES.items():
        value = environment.get(name, "")
        if count(value) > 1:
            return f"{name} is {value}"
    platforms = environment.get("JAX_PLATFORMS", "")
    if "TPU_SKIP_MDS_QUERY" not in environment and (not platforms or "tpu" in platforms):
        # One host or many: the metadata server knows.
        return "a TPU VM"
    return None
