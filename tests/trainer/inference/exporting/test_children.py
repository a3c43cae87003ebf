from __future__ import annotations

from trainer.inference.exporting import children


def test_a_failure_is_one_clause(tmp_path):
    found = children.run("convert", ["onnx", str(tmp_path / "nothing")])
    assert "nothing" in found
    assert "\n" not in found
    assert "Traceback" not in found


def test_the_last_error_of_a_noisy_process_is_the_reason():
    printed = "I0000 a line\nValueError: the first\nmlir.Error: no such op: %x\n  warn(\nmore\n"
    assert children._reason(1, printed) == "mlir.Error: no such op: %x"


def test_a_process_that_crashed_is_named_by_its_signal():
    assert children._reason(-6, "loads\nReduceMax fails.\n") == (
        "its process was ended by SIGABRT; ReduceMax fails"
    )
