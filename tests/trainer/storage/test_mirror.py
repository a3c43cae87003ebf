"""A folder and a prefix of a bucket stay in sync while requests fail."""

from __future__ import annotations

import re
import threading

import pytest

from tests.support import bucket_server
from trainer.storage import locations, mirror
from trainer.storage.bucket import ConflictError, StorageError

URL = locations.Url("hospital", "runs/a")


@pytest.fixture
def open_mirror(server, tmp_path):
    def build(name="local", *, patience_s=60, **options):
        files = server.client(patience_s=patience_s)
        return mirror.Mirror(URL, tmp_path / name, files=files, **options)

    return build


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "local"
    path.mkdir()
    return path


def _bucket(server):
    return {name: server.read("hospital", name) for name in server.names("hospital")}


def _uploads(server):
    """Returns the names of the objects, in the order of their upload."""
    return [
        name
        for name, _ in sorted(
            ((name, item.generation) for name, item in server.client().list("runs/a/").items()),
            key=lambda pair: pair[1],
        )
    ]


def test_what_is_written_is_in_the_bucket_at_the_end(open_mirror, folder, server):
    with open_mirror() as mirrored:
        (folder / "x").mkdir()
        (folder / "x" / "a.npy").write_bytes(b"a")
        (folder / "empty").touch()
        (folder / ".partial-b").mkdir()
        (folder / ".partial-b" / "b").write_bytes(b"half")
        mirrored.sync()
        (folder / "c.json").write_text("{}")
    assert _bucket(server) == {"runs/a/x/a.npy": b"a", "runs/a/empty": b"", "runs/a/c.json": b"{}"}


def test_only_what_has_changed_is_uploaded_and_what_is_gone_is_removed(open_mirror, folder, server):
    with open_mirror() as mirrored:
        for name in ("same", "grown", "gone"):
            (folder / name).write_text(name)
        mirrored.sync()
        mirrored.wait()
        before = server.client().list("")
        (folder / "grown").write_text("grown more")
        (folder / "gone").unlink()
    after = server.client().list("")
    assert after["runs/a/same"] == before["runs/a/same"]
    assert _bucket(server) == {"runs/a/same": b"same", "runs/a/grown": b"grown more"}


def test_a_folder_that_vanishes_takes_nothing_from_the_bucket(open_mirror, folder, server):
    with open_mirror() as mirrored:
        (folder / "a").write_text("a")
        mirrored.sync()
        mirrored.wait()
        folder.rename(folder.with_name("elsewhere"))
    assert _bucket(server) == {"runs/a/a": b"a"}


def test_another_machine_restores_the_folder_from_the_bucket_alone(open_mirror, folder, server):
    with open_mirror():
        for name in ("a", "b", "c"):
            (folder / name).write_text(name * 1000)
    other = open_mirror("other")
    assert other.has("a")
    assert not other.has("d")
    assert other.restore() == 3000
    assert {x.name: x.read_text() for x in other.folder.iterdir()} == {
        name: name * 1000 for name in ("a", "b", "c")
    }
    (other.folder / "b").write_text("B" * 1000)  # Damaged: the same size, other bytes.
    again = open_mirror("other")
    assert again.restore() == 1000
    assert (again.folder / "b").read_text() == "b" * 1000
    requests = len(server.requests)
    assert open_mirror("other").restore() == 0
    assert len(server.requests) == requests + 1  # The listing.


def test_a_file_that_names_others_is_uploaded_and_downloaded_last(open_mirror, folder, server):
    with open_mirror() as mirrored:
        (folder / "a-manifest").write_text("weights, optimizer")
        for name in ("weights", "optimizer"):
            (folder / name).write_text(name)
        mirrored.sync(then=[folder / "a-manifest"])
        mirrored.wait()
        (folder / "a-manifest").write_text("weights-2")
        (folder / "weights-2").write_text("2")
    assert _uploads(server)[-2:] == ["runs/a/weights-2", "runs/a/a-manifest"]
    other = open_mirror("other")
    server.requests.clear()
    other.restore()
    downloads = [x for x in server.requests if "alt=media" in x]
    assert "a-manifest" in downloads[-1]


def test_a_manifest_is_never_uploaded_before_its_data(open_mirror, folder, server, capsys):
    """The bucket is out of reach for the data, then answers again: the manifest has to wait."""
    mirrored = open_mirror(patience_s=0.2)
    (folder / "manifest").write_text("weights")
    (folder / "weights").write_text("weights")
    server.fail(["503"] * 10_000, where="^POST.*")
    mirrored.sync(then=[folder / "manifest"])
    mirrored.sync(then=[folder / "manifest"])
    while "can't be reached" not in capsys.readouterr().out:
        threading.Event().wait(0.01)
    server.fail([])
    assert server.names("hospital") == []
    mirrored.wait()
    assert _uploads(server) == ["runs/a/weights", "runs/a/manifest"]


def test_the_end_has_a_deadline_and_names_the_folder(open_mirror, folder, server):
    (folder / "x").write_text("x")
    mirrored = open_mirror(patience_s=0.2)
    server.fail(["503"] * 100_000, where="^POST.*")
    mirrored.sync()
    message = f"1 file of {folder} did not reach gs://hospital/runs/a within 1 s"
    with pytest.raises(StorageError, match=re.escape(message)):
        mirrored.wait(deadline_s=1)
    server.fail([])
    mirrored.wait()
    assert server.names("hospital") == ["runs/a/x"]


def test_a_second_writer_is_refused_and_overwrites_nothing(open_mirror, folder, server):
    first, second = open_mirror(), open_mirror("second")
    (folder / "x").write_text("first")
    second.folder.mkdir()
    (second.folder / "x").write_text("second")
    first.sync()
    first.wait()
    second.sync()
    with pytest.raises(ConflictError, match="gs://hospital/runs/a/x has been written by another"):
        second.wait()
    with pytest.raises(ConflictError):
        second.sync()
    assert _bucket(server) == {"runs/a/x": b"first"}


def test_writers_of_the_same_content_get_along(open_mirror, folder, server):
    first, second = open_mirror(shared=True), open_mirror("second", shared=True)
    for path in (folder, second.folder):
        path.mkdir(exist_ok=True)
        (path / "x").write_text("same")
    for mirrored in (first, second):
        mirrored.sync()
        mirrored.wait()
    (folder / "x").unlink()
    first.sync()
    first.wait()
    assert _bucket(server) == {"runs/a/x": b"same"}  # The other may still want it.


def test_an_error_in_the_block_is_the_one_that_is_raised(open_mirror, folder, server):
    def fail():
        with open_mirror():
            (folder / "log").write_text("so far")
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        fail()
    assert _bucket(server) == {"runs/a/log": b"so far"}


@pytest.mark.parametrize("name", ["x//y", "x\\y", "c:x"])
def test_unsafe_names_in_the_bucket_are_refused(open_mirror, server, tmp_path, name):
    server.write("hospital", f"runs/a/{name}", b"evil")
    with pytest.raises(StorageError, match=re.escape(f"has an unsafe object: {name!r}")):
        open_mirror()
    assert list(tmp_path.iterdir()) == []


def test_empty_objects_that_stand_for_folders_are_skipped(open_mirror, server):
    server.write("hospital", "runs/a/", b"")
    server.write("hospital", "runs/a/x/", b"")
    server.write("hospital", "runs/a/x/y", b"y")
    mirrored = open_mirror()
    mirrored.restore()
    assert [x.name for x in mirrored.folder.rglob("*") if x.is_file()] == ["y"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_third_of_the_requests_may_fail(open_mirror, folder, server, seed):
    server.fail(bucket_server.at_random(0.33, seed))
    content = {f"{i:02}": bytes([i]) * (i * 1000) for i in range(20)}
    with open_mirror() as mirrored:
        for name, data in content.items():
            (folder / name).write_bytes(data)
            mirrored.sync()
    other = open_mirror("other")
    other.restore()
    assert {x.name: x.read_bytes() for x in other.folder.iterdir()} == content
    assert len(server.injected) > 5
