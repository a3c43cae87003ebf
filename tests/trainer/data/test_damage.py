"""What is told of records that can't be read."""

from __future__ import annotations

import pytest
import tensorflow as tf

from trainer.data import damage

NODE = "{{function_node __wrapped__IteratorGetNext_device_/job:localhost/device:CPU:0}}"


MESSAGES = {
    "eager": f"{NODE} corrupted record at 12 [Op:IteratorGetNext] name: ",
    "graph": """Graph execution error:

Detected at node IteratorGetNext defined at (most recent call last):
<stack traces unavailable>
corrupted record at 12
\t [[{{node IteratorGetNext}}]] [Op:__inference_predict_9]""",
    "graph with its trace": """Graph execution error:

Detected at node A defined at (most recent call last):
  File "a.py", line 1, in f
    g()

corrupted record at 12
\t [[{{node A}}]]""",
    "quoted": "corrupted record at 12' failed with Read less bytes than requested [Op:X] name: ",
    "pipeline": f"{NODE} Error in a function: Iterator::Root::Map: corrupted record at 12",
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_the_cause_is_told_without_names_of_nodes(message):
    assert damage.reason_of(message) == "corrupted record at 12"


def test_a_message_of_nothing_but_places_is_kept():
    assert damage.reason_of("Graph execution error:") == "Graph execution error:"


@pytest.fixture
def records(tmp_path):
    """Three files of four records each."""
    paths = [tmp_path / f"{name}.tfrecord" for name in "abc"]
    for path in paths:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(4):
                writer.write(b"0123456789")
    return paths


@pytest.mark.parametrize("way", ["flipped", "cut", "cut between records", "gone", "whole"])
def test_the_file_that_is_not_whole_is_named(records, way):
    content = bytearray(records[1].read_bytes())
    if way == "gone":
        records[1].unlink()
    content[20] ^= {"flipped": 1}.get(way, 0)
    kept = {"cut": 30, "cut between records": len(content) // 2}.get(way, len(content))
    if way != "gone":
        records[1].write_bytes(content[:kept])
    found = damage.first_damaged([(str(path), 4) for path in records])
    assert found == (None if way == "whole" else str(records[1]))
