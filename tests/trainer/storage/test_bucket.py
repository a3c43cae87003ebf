"""The client against a bucket on loopback that fails on demand."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.support import bucket_server
from trainer.storage import bucket
from trainer.storage.bucket import ConflictError, MissingError, StorageError, UnreachableError

SMALL = b"0123456789" * 100
LARGE = os.urandom(bucket.CHUNK_BYTES + 1000)
"""Uploaded in two pieces."""


@pytest.fixture
def files(server):
    return server.client()


@pytest.fixture
def impatient(server):
    return server.client(patience_s=0.5)


def _file(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_what_is_uploaded_is_listed_and_comes_back(files, server, tmp_path, content):
    stored = files.upload(_file(tmp_path, content), "a/x.json", generation=0)
    assert files.list("a/") == {"a/x.json": stored}
    assert files.list("b/") == {}
    assert files.stat("a/x.json") == stored
    assert files.stat("a/y.json") is None
    assert server.read("hospital", "a/x.json") == content
    assert files.download(stored, tmp_path / "new" / "x.json") == stored
    assert (tmp_path / "new" / "x.json").read_bytes() == content


@pytest.mark.parametrize("fault", bucket_server.PASSING_FAULTS)
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_passing_faults_are_survived(files, server, tmp_path, content, fault):
    path = _file(tmp_path, content)
    server.fail([fault, fault, None, fault])
    stored = files.upload(path, "a/x.json", generation=0)
    assert server.read("hospital", "a/x.json") == content
    server.fail([fault, fault])
    files.download(stored, tmp_path / "back.json")
    assert (tmp_path / "back.json").read_bytes() == content
    server.fail([fault, fault])
    assert files.list("a/") == {"a/x.json": stored}
    server.fail([fault, fault])
    files.delete(stored)
    assert server.names("hospital") == []


def test_the_download_of_a_large_object_resumes_where_it_broke(files, server, tmp_path):
    stored = files.upload(_file(tmp_path, LARGE), "x", generation=0)
    progress: list[int] = []
    server.fail(["truncate"], where="alt=media")
    files.download(stored, tmp_path / "back", progress.append)
    assert sum(progress) == len(LARGE)
    assert min(progress) > 0  # No attempt was discarded.


def test_damage_during_a_download_is_noticed_and_repaired(files, server, tmp_path):
    stored = files.upload(_file(tmp_path, SMALL), "x", generation=0)
    progress: list[int] = []
    server.fail(["flip", "flip"], where="alt=media")
    files.download(stored, tmp_path / "back", progress.append)
    assert server.injected == ["flip", "flip"]
    assert (tmp_path / "back").read_bytes() == SMALL
    assert sum(progress) == len(SMALL)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_damage_during_an_upload_is_refused_and_sent_again(files, server, tmp_path, content):
    server.fail(["flip_sent"], where="^POST.*multipart|^PUT")
    files.upload(_file(tmp_path, content), "x", generation=0)
    assert server.injected == ["flip_sent"]
    assert server.read("hospital", "x") == content


def test_damage_that_stays_leaves_no_file(impatient, server, tmp_path):
    stored = impatient.upload(_file(tmp_path, SMALL), "x", generation=0)
    server.fail(["flip"] * 10_000, where="alt=media")
    with pytest.raises(UnreachableError, match=r"1000 of 1000 bytes arrived, or their checksum"):
        impatient.download(stored, tmp_path / "new" / "back")
    assert list((tmp_path / "new").iterdir()) == []


def test_two_writers_cannot_overwrite_one_another(files, server, tmp_path):
    first = files.upload(_file(tmp_path, b"first"), "x", generation=0)
    for generation in (0, first.generation - 1):
        with pytest.raises(ConflictError, match=r"gs://hospital/x has been written by another"):
            files.upload(_file(tmp_path, b"second"), "x", generation=generation)
    assert server.read("hospital", "x") == b"first"
    with pytest.raises(ConflictError):
        files.upload(_file(tmp_path, b"first"), "x", generation=0)
    assert files.upload(_file(tmp_path, b"first"), "x", generation=0, may_exist=True) == first
    second = files.upload(_file(tmp_path, b"second"), "x", generation=first.generation)
    with pytest.raises(ConflictError):
        files.delete(first)
    files.delete(second)
    files.delete(second)  # Gone already.
    assert server.names("hospital") == []


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_write_whose_answer_was_lost_is_told_from_another_writers(
    files, server, tmp_path, content
):
    server.fail(["cut_after"] * 3, where="^(POST|PUT)")
    stored = files.upload(_file(tmp_path, content), "x", generation=0)
    assert stored == files.stat("x")
    server.fail(["503"], where="^POST")
    server.write("hospital", "y", b"another writer's, between our two tries")
    with pytest.raises(ConflictError):
        files.upload(_file(tmp_path, content), "y", generation=0)


def test_a_version_that_was_replaced_gives_way_to_the_newest(files, server, tmp_path):
    old = files.upload(_file(tmp_path, SMALL), "x", generation=0)
    server.write("hospital", "x", b"new")
    new = files.download(old, tmp_path / "back")
    assert new.generation > old.generation
    assert (tmp_path / "back").read_bytes() == b"new"
    files.delete(new)
    with pytest.raises(MissingError, match=r"gs://hospital/x does not exist"):
        files.download(old, tmp_path / "back")


def test_patience_ends(impatient, server):
    server.fail(["503"] * 10_000)
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=r"can't be reached; tried for 0.5 s: 503"):
        impatient.list("")
    assert time.monotonic() - start < 20
    assert len(server.injected) > 2


@pytest.mark.parametrize(
    ("fault", "message"), [("401", "needs credentials"), ("403", r"x? denies access to .* \(403 ")]
)
def test_denied_access_is_reported_at_once(files, server, tmp_path, fault, message):
    path = _file(tmp_path, SMALL)
    stored = files.upload(path, "x", generation=0)
    for call in (
        lambda: files.list(""),
        lambda: files.stat("x"),
        lambda: files.download(stored, path),
        lambda: files.upload(path, "y", generation=0),
        lambda: files.delete(stored),
    ):
        server.fail([fault])
        with pytest.raises(StorageError, match=rf"gs://hospital.*{message}.*gcloud auth"):
            call()


def test_a_missing_bucket_is_named(server, tmp_path):
    absent = server.client("absent")
    with pytest.raises(MissingError, match=r"gs://absent/ does not exist .*buckets create"):
        absent.list("")
    with pytest.raises(MissingError, match=r"gs://absent/x does not exist"):
        absent.upload(_file(tmp_path, SMALL), "x", generation=0)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "absent.json", "File absent.json was not found"),
        # The discard port: no metadata server listens there.
        ("GCE_METADATA_IP", "127.0.0.1:9", "Your default credentials were not found"),
    ],
)
def test_missing_credentials_are_one_sentence(monkeypatch, tmp_path, setting, value, message):
    """In a process of its own: the library reads these settings when it is imported."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv(setting, value)
    code = "from trainer.storage import bucket\nbucket.Bucket('hospital')"
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    (line,) = [
        x for x in result.stderr.splitlines() if x.startswith("trainer.storage.bucket.Storage")
    ]
    assert f"gs://hospital needs credentials ({message}" in line
    assert "gcloud auth application-default login" in line


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_memory_is_bounded_by_chunks(tmp_path):
    (tmp_path / "big").write_bytes(os.urandom(1 << 20) * 96)
    code = (
        "import pathlib, resource, sys\n"
        "from trainer.storage import bucket\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "files = bucket.Bucket('hospital')\n"
        "files.list('')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "files.download(files.upload(path, 'big', generation=0), path.with_suffix('.back'))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    grown = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "big"], check=True, capture_output=True, text=True
    ).stdout
    assert float(grown) < 48  # MiB, for 96.
    assert (tmp_path / "big.back").read_bytes() == (tmp_path / "big").read_bytes()
