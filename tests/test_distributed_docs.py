"""The commands and the manifest in docs/distributed.md are valid."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from trainer import config
from trainer.distribution import cluster
from trainer.system import sockets

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "distributed.md").read_text("utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
OWN = {"model_dir", "mode", "recipe", "config_file"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_valid_bash(command):
    subprocess.run(["bash", "-n", "-c", command], check=True)


def _options(flags: list[str]) -> dict[str, str]:
    return dict(flag.removeprefix("--").split("=", 1) for flag in flags)


def _check(options: dict[str, str]) -> None:
    """Every flag exists, and the config takes its value."""
    defaults = config.Config().to_flat()
    typed = {
        name: value if isinstance(defaults[name], str) else json.loads(value)
        for name, value in options.items()
        if name not in OWN
    }
    config.Config.from_flat(typed)


@pytest.mark.parametrize("line", re.findall(r"python -m trainer (.*)", TEXT))
def test_every_trainer_command_has_valid_options(line):
    _check(_options(line.split()))


@pytest.fixture
def worker():
    manifest = yaml.safe_load((DOCS / "jobset.yaml").read_text("utf-8"))
    (job,) = manifest["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return manifest, job, container


def test_the_manifests_flags_exist(worker):
    _, _, container = worker
    assert container["command"] == ["python", "-m", "trainer"]
    _check(_options(container["args"]))


def test_every_pod_of_the_manifest_is_in_its_cluster(worker):
    """Pods are named JOBSET-JOB-INDEX-POD.SUBDOMAIN, as JobSet documents."""
    manifest, job, container = worker
    spec = job["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    (text,) = (entry["value"] for entry in container["env"] if entry["name"] == "TF_CONFIG")
    subdomain = manifest["spec"]["network"]["subdomain"]
    pods = [
        f"{manifest['metadata']['name']}-{job['name']}-0-{index}.{subdomain}"
        for index in range(spec["completions"])
    ]
    for index in range(len(pods)):
        expanded = text.replace("$(INDEX)", str(index))
        assert [sockets.parse(a)[0] for a in json.loads(expanded)["cluster"]["worker"]] == pods
        assert cluster.parse(expanded).index == index
