"""launch/gke_jobset.yaml: what starts, and what becomes of every exit code.

No cluster here: the rules are read as Kubernetes documents them.
"""

import math
from pathlib import Path

import pytest
import yaml

from bokeh_jax import config as config_lib
from bokeh_jax.command_line import Parser, add_train_arguments, split_overrides
from bokeh_jax.training.preemption import EXIT_PREEMPTED

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((ROOT / "launch" / "gke_jobset.yaml").read_text())


@pytest.fixture(scope="module")
def job(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


@pytest.fixture(scope="module")
def pod(job):
    return job["template"]["spec"]


def matches(rule, code, disrupted):
    if "onPodConditions" in rule:
        (condition,) = rule["onPodConditions"]
        assert condition == {"type": "DisruptionTarget", "status": "True"}
        return disrupted
    codes = rule["onExitCodes"]
    assert codes["operator"] in ("In", "NotIn")
    return code != 0 and (code in codes["values"]) == (codes["operator"] == "In")


def becomes(jobset, job, code, disrupted=False):
    """What happens to the whole when a pod ends: `restart` or `fail`."""
    actions = [r["action"] for r in job["podFailurePolicy"]["rules"] if matches(r, code, disrupted)]
    action = actions[0] if actions else "Count"
    assert action in ("FailJob", "Count")
    assert job["backoffLimit"] == 0  # The first that counts ends the Job.
    reason = "PodFailurePolicy" if action == "FailJob" else "BackoffLimitExceeded"
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        if reason in rule["onJobFailureReasons"]:
            return {"FailJobSet": "fail"}[rule["action"]]
    return "restart"


def test_preemption_restarts_all_and_nothing_else_does(jobset, job):
    assert becomes(jobset, job, EXIT_PREEMPTED) == "restart"
    for code in (1, 2, 76, 77, 134, 137, 143):
        assert becomes(jobset, job, code) == "fail", code
    # Kubernetes took the pod away, in time or not.
    for code in (EXIT_PREEMPTED, 134, 137):
        assert becomes(jobset, job, code, disrupted=True) == "restart", code
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_pods_are_hosts_of_the_slice(job, pod):
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(int(side) for side in topology.split("x"))
    (container,) = pod["containers"]
    hosts = chips // container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == hosts
    assert pod["restartPolicy"] == "Never"  # What podFailurePolicy asks for.


def test_the_rules_speak_of_the_container_that_trains(job, pod):
    (container,) = pod["containers"]
    named = [
        rule["onExitCodes"]["containerName"]
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    ]
    assert named == [container["name"]]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_the_command_is_one_that_the_trainer_takes(pod):
    (container,) = pod["containers"]
    # No shell, which would keep SIGTERM to itself.
    assert container["command"] == ["python", "-m", "bokeh_jax.training.train"]
    arguments, overrides = split_overrides(container["args"])
    parser = Parser()
    add_train_arguments(parser)
    parsed = parser.parse_args(arguments)
    assert parsed.coordinator is None
    config = config_lib.load(ROOT / parsed.config, overrides)
    for path in (config.data.path, parsed.workdir):
        assert path.startswith(container["volumeMounts"][0]["mountPath"])
