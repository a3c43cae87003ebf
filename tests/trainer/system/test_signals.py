"""The names of signals; what they do is tested in processes."""

from __future__ import annotations

import pytest

from trainer.system import signals


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (35, "signal 35")])
def test_every_signal_has_a_name(number, name):
    assert signals.name_of(number) == name
