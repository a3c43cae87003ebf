"""The hosts of a run, as the environment variable TF_CONFIG names them.

    found = cluster.of_environment()     # None where TF_CONFIG is not set, or names no other host
    found.others                         # {"worker 0": "10.0.0.2:2222"}
    found.index, found.size              # 0, 2: the chief is 0, and worker 0 without a chief

Vertex AI and Kubeflow's TFJob name the first host `chief` and the others `worker`; TensorFlow's
guide names all of them `worker`. Keys other than `cluster` and `task` are of no concern here.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from typing import Any

from trainer.errors import ConfigError
from trainer.storage import documents
from trainer.system import hints, sockets
from trainer.system import text as text_lib

VARIABLE = "TF_CONFIG"
JOBS = ("chief", "worker")
"""The jobs whose tasks train together, in the order of their indices."""
NAMES = {
    "chief": "chief",
    "master": "chief",  # TensorFlow 1 and older TFJobs.
    "workerpool0": "chief",  # Vertex AI's CLUSTER_SPEC, where somebody copies it to TF_CONFIG.
    "workerpool1": "worker",
    "worker": "worker",
}
FORM = (
    '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, or with '
    'a job "chief" of one host'
)
SHOWN = 200
"""How many characters of a wrong TF_CONFIG an error shows."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The hosts that train together, and which of them this one is.

    Attributes:
      jobs: addresses (host:port) of the tasks of each job, `chief` before `worker`.
      job: of this host.
      task: index of this host in its job.
    """

    jobs: dict[str, list[str]]
    job: str
    task: int

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of all hosts by their names, such as `worker 1`."""
        return {
            f"{job} {task}": address
            for job, tasks in self.jobs.items()
            for task, address in enumerate(tasks)
        }

    @property
    def name(self) -> str:
        """The name of this host."""
        return f"{self.job} {self.task}"

    @property
    def others(self) -> dict[str, str]:
        """The addresses of the other hosts by their names."""
        return {name: where for name, where in self.addresses.items() if name != self.name}

    @property
    def index(self) -> int:
        """Number of this host among all; 0 is the chief, which prints and writes."""
        return list(self.addresses).index(self.name)

    @property
    def size(self) -> int:
        """Number of hosts."""
        return len(self.addresses)

    @property
    def port(self) -> int:
        """The port that TensorFlow's server listens on here."""
        return sockets.parse(self.addresses[self.name])[1]


def of_environment() -> Cluster | None:
    """Returns the cluster of the environment, or None where nothing names one.

    Raises:
      ConfigError: when TF_CONFIG is wrong.
    """
    return parse(os.environ.get(VARIABLE) or "{}")


def require() -> Cluster:
    """Returns the cluster of the environment.

    Raises:
      ConfigError: when nothing names one, or TF_CONFIG is wrong.
    """
    found = of_environment()
    if found is None:
        raise ConfigError(
            "--strategy=multi_worker needs the environment variable TF_CONFIG, which names the "
            "workers' addresses and this worker's index; --local_workers=2 tries it here."
        )
    return found


def parse(text: str) -> Cluster | None:
    """Returns the cluster that a TF_CONFIG names, or None where it names no host.

    Raises:
      ConfigError: when it can't be read, or not all of its hosts can train together.
    """
    found = _mapping(_decoded(text), "TF_CONFIG")
    misspelt = [key for key in found if "cluster" not in found and hints.near(key, ["cluster"])]
    if misspelt:  # Each host would train alone, and write over the others.
        raise ConfigError(f"TF_CONFIG has {_short(misspelt[0])}; did you mean cluster?")
    jobs = _jobs(found.get("cluster", {}))
    if not jobs:  # Some platforms set it for every process, with a task or without.
        return None
    task = _mapping(found.get("task") or {}, "TF_CONFIG: its task")
    job = _job_of(task, jobs)
    return Cluster(jobs, job, _index_of(task, job, len(jobs[job])))


def _decoded(text: str) -> Any:
    try:
        return documents.parse(text)
    except ValueError as error:
        raise ConfigError(
            f"TF_CONFIG ({_short(text)}) {error}; it must be of the form {FORM}."
        ) from error


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} ({_short(value)}) is not a JSON object; the form is {FORM}.")
    return value


def _jobs(given: object) -> dict[str, list[str]]:
    """Returns the tasks of each job that has any, by TensorFlow's names of the jobs."""
    found: dict[str, list[str]] = {job: [] for job in JOBS}
    for name, tasks in _mapping(given, "TF_CONFIG: its cluster").items():
        if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
            raise ConfigError(
                f"TF_CONFIG: job {_short(name)} ({_short(tasks)}) must be a list of addresses, "
                "such as host:2222."
            )
        if tasks:
            found[_trains(name)] += tasks
    if len(found["chief"]) > 1:
        raise ConfigError(
            f"TF_CONFIG names {len(found['chief'])} chiefs ({', '.join(found['chief'])}); one is "
            "the chief, and the others are of the job worker."
        )
    _check_addresses([address for tasks in found.values() for address in tasks])
    return {job: tasks for job, tasks in found.items() if tasks}


def _trains(name: object) -> str:
    """Returns TensorFlow's name of a job that trains.

    Raises:
      ConfigError: for `ps`, `evaluator` and jobs that nobody knows.
    """
    job = NAMES.get(str(name))
    near = [] if job else hints.near(str(name), JOBS)
    if near:
        raise ConfigError(
            f"TF_CONFIG names a job {_short(name)}; did you mean {' or '.join(near)}?"
        )
    if job is None:
        raise ConfigError(
            f"TF_CONFIG names a job {_short(name)}; only chief and worker train here: workers "
            "update together, so there is no parameter server, and the chief evaluates. Start the "
            "job without it."
        )
    return job


def _check_addresses(addresses: list[str]) -> None:
    for address in addresses:
        try:
            _, port = sockets.parse(address)
        except ValueError:
            port = 0
        if "://" in address or not 0 < port < 2**16:
            raise ConfigError(
                f"TF_CONFIG: {_short(address)} is not an address; give host:port, with a port from "
                "1 to 65535."
            )
    most = collections.Counter(addresses).most_common(1)
    if most and most[0][1] > 1:
        raise ConfigError(
            f"TF_CONFIG names {most[0][0]} {most[0][1]} times; each task needs an address of its "
            "own."
        )


def _job_of(task: dict[str, Any], jobs: dict[str, list[str]]) -> str:
    if "type" not in task:
        raise ConfigError(
            "TF_CONFIG names a cluster, but not which task of it this process is; add "
            f'"task": {{"type": "{next(iter(jobs))}", "index": 0}}.'
        )
    job = _trains(task["type"])
    if job not in jobs:
        raise ConfigError(
            f"TF_CONFIG: this process is of the job {_short(task['type'])}, but the cluster has "
            f"only {' and '.join(jobs)}."
        )
    return job


def _index_of(task: dict[str, Any], job: str, count: int) -> int:
    """Returns the task's index; some platforms write it as text."""
    wanted = f"from 0 to {count - 1}" if count > 1 else "0"
    if "index" not in task:
        raise ConfigError(
            f'TF_CONFIG: the task has no index; add "index": NUMBER to it, which must be {wanted}.'
        )
    given = task["index"]
    is_number = isinstance(given, (int, str)) and not isinstance(given, bool)
    if not is_number or str(given) not in {str(index) for index in range(count)}:
        raise ConfigError(
            f"TF_CONFIG: the task's index ({_short(given)}) must be {wanted}, because the "
            f"job {job} has {text_lib.counted(count, 'task')}."
        )
    return int(str(given))


def _short(value: object) -> str:
    """Returns a value as one line that is safe to print."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
