"""Zips that are damaged, or lie about their members, and more of them than may be open."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import resource
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.support import radiographs
from trainer import errors
from trainer.inference import sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from trainer.inference.sources import Found

IMAGE, OTHER = radiographs.draw(0), radiographs.draw(1)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def zipped(path: Path, members: Sequence[tuple[str, bytes]], method: int = METHODS[0]) -> Path:
    """A zip with these members, in their order; names may repeat."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            info = zipfile.ZipInfo("?")  # zipfile warns of a name that repeats.
            info.filename = info.orig_filename = name
            archive.NameToInfo.clear()
            archive.writestr(info, data, method)
    return path


def found_in(path: Path) -> Found:
    with sources.opened([str(path)]) as found:
        return found


@pytest.mark.parametrize("contents", [(IMAGE, OTHER), (OTHER, IMAGE), (IMAGE, OTHER, IMAGE)])
def test_a_name_with_several_contents_is_a_row_with_a_problem(tmp_path, contents):
    """Whether the first or the last is meant, nobody knows: neither is scored under the name."""
    members = [("x/a.png", data) for data in contents]
    path = zipped(tmp_path / "a.zip", [("b.png", IMAGE), *members])
    with sources.opened([str(path)]) as found:
        sound, twice = found.candidates
        assert sound.read() == IMAGE
        assert twice.name == f"{path}/x/a.png"
        assert twice.problem == "is in the zip twice, with other contents"
        with pytest.raises(ValueError, match="is in the zip twice"):
            twice.read()
    stamps = {of.stamp for of in (*found.candidates, *found_in(path).candidates)}
    assert len(stamps) == 2


def test_a_name_with_the_same_contents_twice_is_read_once(tmp_path):
    path = zipped(tmp_path / "a.zip", [("a.png", IMAGE), ("a.png", IMAGE), ("b.png", IMAGE)])
    with sources.opened([str(path)]) as found:
        assert [of.read() for of in found.candidates] == [IMAGE, IMAGE]
    assert found.notes == ("Named more than once, read once: 1 file.",)


@pytest.mark.parametrize("method", METHODS)
def test_no_more_is_read_of_a_member_than_it_declares(tmp_path, method):
    """A few kilobytes may expand to gigabytes, whatever their size is said to be."""
    path = zipped(tmp_path / "a.zip", [("a.png", bytes(1 << 27)), ("b.png", IMAGE)], method)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    with sources.opened([str(path)]) as found:
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="can't be read"):
                found.candidates[0].read()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # Of LZMA, zipfile expands 4 KiB at once.
        assert peak < 1 << (27 if method == zipfile.ZIP_LZMA else 20)
        assert found.candidates[1].read() == IMAGE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 16, (1 << 16) + 1, 300_000])
def test_members_of_every_size_are_read_whole(tmp_path, method, size):
    data = os.urandom(size)
    path = zipped(tmp_path / "a.zip", [("a.png", data)], method)
    with sources.opened([str(path)]) as found:
        assert found.candidates[0].read() == data


def test_a_member_that_is_encrypted_or_packed_strangely_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", [("a.png", IMAGE), ("b.png", IMAGE), ("c.png", IMAGE)])
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    data[first + 8] |= 1  # The flag of encryption, in the directory.
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 10 : second + 12] = (99).to_bytes(2, "little")
    path.write_bytes(bytes(data))
    found = {of.name.removeprefix(f"{path}/"): of.problem for of in found_in(path).candidates}
    assert found["a.png"].startswith("is encrypted: extract the zip with its password")
    assert found["b.png"].startswith("is compressed by a method (99)")
    assert found["c.png"] is None


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_member_is_named_when_it_is_read_and_the_others_are_read(tmp_path, method):
    path = zipped(tmp_path / "a.zip", [("a.png", IMAGE * 9), ("b.png", IMAGE * 9)], method)
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("a.png")
    data = bytearray(path.read_bytes())
    begin = first.header_offset + 30 + len("a.png")
    for at in range(begin, begin + first.compress_size, 3):
        data[at] ^= 0x55
    path.write_bytes(bytes(data))
    with sources.opened([str(path)]) as found:
        damaged, sound = found.candidates
        with pytest.raises(ValueError, match="can't be read"):
            damaged.read()
        assert sound.read() == IMAGE * 9


@pytest.mark.parametrize("at", range(0, 30, 2))
def test_a_damaged_header_of_a_member_is_named_when_it_is_read(tmp_path, at):
    path = zipped(tmp_path / "a.zip", [("é.png", IMAGE), ("b.png", IMAGE)])
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    data[30] ^= 0x55  # Of the name, which is then no UTF-8.
    path.write_bytes(bytes(data))
    with sources.opened([str(path)]) as found:
        with pytest.raises(ValueError, match="can't be read"):
            found.by_name[f"{path}/é.png"].read()
        assert found.by_name[f"{path}/b.png"].read() == IMAGE


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04" + bytes(99)])
def test_a_damaged_zip_is_told_in_a_line(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(errors.RunError, match=r"a.zip is damaged \(.*\). Download it again"):
        found_in(tmp_path / "a.zip")


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Returns a function that lets this process open so many files more than it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(count: int) -> None:
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_zips_than_may_be_open_are_read_by_threads(tmp_path, limit_files):
    contents = [radiographs.draw(seed) for seed in range(4)]
    members = [(f"{i}.png", contents[i]) for i in range(4)]
    for number in range(80):
        zipped(tmp_path / f"{number:02}.zip", members)
    limit_files(40)
    with (
        sources.opened([str(tmp_path / "*.zip")]) as found,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        assert list(pool.map(sources.ImageFile.read, found.candidates)) == contents * 80
        scattered = found.candidates[::7]
        read = list(pool.map(sources.ImageFile.read, scattered))
        assert read == [contents[7 * i % 4] for i in range(len(scattered))]


def test_too_many_open_files_are_not_blamed_on_a_file(tmp_path, limit_files):
    path = zipped(tmp_path / "a.zip", [("a.png", IMAGE)])
    (tmp_path / "b.png").write_bytes(IMAGE)
    (tmp_path / "without").write_bytes(IMAGE)
    with sources.opened([str(path), str(tmp_path / "b.png")]) as found:
        limit_files(0)
        for candidate in found.candidates:
            with pytest.raises(OSError, match="Too many open files") as raised:
                candidate.read()
            assert raised.value.errno == errno.EMFILE
    for named in (path, tmp_path):
        with pytest.raises(OSError, match="Too many open files"):
            found_in(named)
