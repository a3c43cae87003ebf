"""TF_CONFIG as platforms and people write it."""

from __future__ import annotations

import json

import pytest

from trainer.distribution import cluster
from trainer.errors import ConfigError

TWO = {"worker": ["a:1", "b:2"]}
FIRST = {"type": "worker", "index": 0}


def _parse(jobs: object, task: object = None, **more: object) -> cluster.Cluster | None:
    return cluster.parse(json.dumps({"cluster": jobs, "task": task or FIRST, **more}))


def test_workers_count_from_zero():
    found = _parse(TWO, {"type": "worker", "index": 1})
    assert (found.index, found.size, found.port, found.name) == (1, 2, 2, "worker 1")
    assert found.others == {"worker 0": "a:1"}


VERTEX = {
    "cluster": {
        "chief": ["cmle-training-workerpool0-ab-0:2222"],
        "worker": ["cmle-training-workerpool1-ab-0:2222", "cmle-training-workerpool1-ab-1:2222"],
    },
    "task": {"type": "worker", "index": 1, "trial": "", "cloud": "ab"},
    "job": '{"python_module": "trainer"}',
    "environment": "cloud",
}
KUBEFLOW = {
    "cluster": {
        "chief": ["x-chief-0.kubeflow.svc:2222"],
        "worker": ["x-worker-0.kubeflow.svc:2222", "x-worker-1.kubeflow.svc:2222"],
        "ps": [],
    },
    "task": {"type": "worker", "index": "1"},
    "environment": "cloud",
}


@pytest.mark.parametrize("given", [VERTEX, KUBEFLOW])
def test_the_chief_comes_before_the_workers(given):
    found = cluster.parse(json.dumps(given))
    assert (found.index, found.size, found.job, found.task) == (2, 3, "worker", 1)
    assert list(found.others) == ["chief 0", "worker 0"]
    chief = cluster.parse(json.dumps(given | {"task": {"type": "chief", "index": 0}}))
    assert (chief.index, chief.size) == (0, 3)


@pytest.mark.parametrize(
    ("first", "others"), [("master", "worker"), ("workerpool0", "workerpool1")]
)
def test_other_names_of_the_same_jobs_are_understood(first, others):
    jobs = {others: ["b:2"], first: ["a:1"]}
    assert _parse(jobs, {"type": others, "index": 0}).index == 1
    assert _parse(jobs, {"type": first, "index": 0}).jobs == {"chief": ["a:1"], "worker": ["b:2"]}


def test_an_ipv6_address_stands_in_brackets():
    assert _parse({"worker": ["[fd00::1]:2222", "[fd00::2]:2222"]}).port == 2222


@pytest.mark.parametrize(
    "text", ["{}", '{"cluster": {}}', '{"cluster": {"worker": []}}', '{"task": {"type": "ps"}}']
)
def test_without_a_host_there_is_no_cluster(text):
    assert cluster.parse(text) is None


def test_a_cluster_of_one_has_no_others():
    assert _parse({"chief": ["a:1"]}, {"type": "chief", "index": 0}).others == {}


@pytest.mark.parametrize(
    ("jobs", "task", "message"),
    [
        ([], FIRST, r"its cluster \(\[\]\) is not a JSON object"),
        ({"worker": "a:1"}, FIRST, r"job worker \(a:1\) must be a list of addresses"),
        ({"worker": [1]}, FIRST, r"job worker \(\[1\]\) must be a list"),
        (TWO | {"ps": ["c:3"]}, FIRST, "names a job ps; only chief and worker train here"),
        (TWO | {"evaluator": ["c:3"]}, FIRST, "names a job evaluator; only chief and worker"),
        (TWO, {"type": "evaluator", "index": 0}, "names a job evaluator; only chief and worker"),
        ({"chief": ["a:1", "b:2"]}, FIRST, r"names 2 chiefs \(a:1, b:2\)"),
        ({"worker": ["a"]}, FIRST, "a is not an address; give host:port"),
        ({"worker": ["a:0"]}, FIRST, "a:0 is not an address"),
        ({"worker": ["a:65536"]}, FIRST, "a:65536 is not an address"),
        ({"worker": ["grpc://a:1"]}, FIRST, "grpc://a:1 is not an address"),
        ({"worker": ["a:1", "a:1"]}, FIRST, "names a:1 2 times"),
        ({"chief": ["a:1"], "worker": ["a:1"]}, FIRST, "names a:1 2 times"),
        (TWO, "worker", r"its task \(worker\) is not a JSON object"),
        (TWO, {"index": 0}, "not which task of it this process is; add"),
        (TWO, {"type": "chief", "index": 0}, "of the job chief, but the cluster has only worker"),
        (TWO, {"type": "worker"}, "the task has no index; add .* which must be from 0 to 1"),
        ({"worker": ["a:1"]}, {"type": "worker"}, "the task has no index; add .* must be 0"),
        ({"worker": ["a:1"]}, {"type": "worker", "index": 1}, r"index \(1\) must be 0, because"),
        ({"workr": ["a:1", "b:2"]}, FIRST, "names a job workr; did you mean worker"),
        (TWO, {"type": "Worker", "index": 0}, "names a job Worker; did you mean worker"),
        ({"cheif": ["a:1"]}, FIRST, "names a job cheif; did you mean chief"),
        (TWO, {"type": "worker", "index": 2}, r"index \(2\) must be from 0 to 1"),
        (TWO, {"type": "worker", "index": "one"}, r"index \(one\) must be from 0 to 1"),
        (TWO, {"type": "worker", "index": True}, r"index \(true\) must be from 0 to 1"),
        (TWO, {"type": "worker", "index": 1.0}, r"index \(1.0\) must be from 0 to 1"),
    ],
)
def test_each_mistake_has_its_own_line(jobs, task, message):
    with pytest.raises(ConfigError, match=f"TF_CONFIG.*{message}") as error:
        _parse(jobs, task)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker:1", r"\(worker:1\) is not JSON"),
        ("[" * 100_000, "is nested more than 32 deep"),
        ("\x1b[31m", r"\(\?\[31m\) is not JSON"),
        ("[]", r"TF_CONFIG \(\[\]\) is not a JSON object"),
        (
            '{"clusters": {"worker": ["a:1", "b:2"]}}',
            "TF_CONFIG has clusters; did you mean cluster",
        ),
        ('{"Cluster": {}}', "TF_CONFIG has Cluster; did you mean cluster"),
        ('{"cluster": {"worker": ["a:1"]}}', "not which task of it this process is"),
    ],
)
def test_what_is_not_a_cluster_has_its_own_line(text, message):
    with pytest.raises(ConfigError, match=message):
        cluster.parse(text)
