from __future__ import annotations

import pathlib
import re

import pytest

from trainer.storage import locations

RUN = locations.Url("hospital", "runs/a")


def test_an_address_reads_back_to_itself():
    assert locations.parse("gs://hospital/runs/a/") == RUN
    assert str(RUN) == "gs://hospital/runs/a"
    assert str(locations.parse("gs://hospital")) == "gs://hospital"
    assert str(locations.parse("gs://hospital") / "x" / "y.npy") == "gs://hospital/x/y.npy"


def test_a_name_becomes_a_path_below_the_address():
    path = locations.relative_path("runs/a/x/y.npy", RUN)
    assert path == pathlib.PurePosixPath("x/y.npy")
    assert (RUN / path).name == "runs/a/x/y.npy"


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "x/../../evil", "..", ".", "x/./y", "/etc/passwd", "", "x//y", "x/",
        "x\\..\\..\\evil", "C:evil", "x\0y", "x\ny",
    ],
)  # fmt: skip
def test_a_name_that_leads_out_of_the_folder_is_refused(name):
    with pytest.raises(locations.LocationError, match=re.escape(repr(f"runs/a/{name}"[7:]))):
        locations.relative_path(f"runs/a/{name}", RUN)


def test_a_name_elsewhere_is_refused():
    with pytest.raises(locations.LocationError, match=r"'runs/ab/x' is not below gs://hospital"):
        locations.relative_path("runs/ab/x", RUN)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("gs:/bucket/x", "write gs://bucket/x"),
        ("gs:bucket/x", "write gs://bucket/x"),
        ("GS:/bucket/x", "write gs://bucket/x"),
        ("s3:/bucket/x", "a local path or gs://"),
        ("http:/x", "a local path or gs://"),
        ("file:/x", "a local path or gs://"),
        ("s3://bucket/x", "has the scheme s3://"),
        ("file:///x", "is a URL of a local path; write /x"),
        ("GS://bucket/x", "has its scheme in capitals; write gs://BUCKET/PREFIX"),
        ("~nobody-of-this-name/x", "home folder of a user that is not known"),
        ("a\0b", "null byte"),
        (f"runs/{'x' * 256}/a", "has a name of over 255 bytes"),
    ],
)
def test_what_is_neither_a_path_nor_an_address_is_refused(path, reason):
    with pytest.raises(locations.LocationError, match=reason):
        locations.check(path)


@pytest.mark.parametrize("path", ["", "runs/a", "~/runs", "/x/run:1", "C:/x", "gs", "12:30"])
def test_local_paths_are_taken(path):
    locations.check(path)
    locations.check_local(path)


def test_a_folder_has_one_spelling_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("runs")
    spelt = ("runs/a", "x/../runs/a", "./runs/a/", "link/a", f"{tmp_path}/runs/a")
    assert {locations.resolved(path) for path in spelt} == {f"{tmp_path.resolve()}/runs/a"}
    assert locations.resolved("gs://hospital/runs/") == "gs://hospital/runs"
