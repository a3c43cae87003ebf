"""Finished runs, compared with each other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trainer
from tests.support import runs
from trainer.commands import compare, train
from trainer.errors import ConfigError, RunError
from trainer.reports.comparisons import comparison_report
from trainer.runs import evaluated
from trainer.storage import files

WITHOUT_TENSORFLOW = """
import sys, trainer
trainer.compare(sys.argv[1:])
sys.exit("tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory) -> list[Path]:
    """Two runs that differ by their seed."""
    folder = tmp_path_factory.mktemp("compared")
    found = []
    for seed in range(2):
        config = runs.small_config(
            data_dir, folder, model_dir=str(folder / f"seed{seed}"), seed=seed, max_epochs=1
        )
        train.train(config)
        found.append(folder / f"seed{seed}")
    return found


@pytest.fixture
def copies(finished, tmp_path) -> list[Path]:
    """Copies of them, to be damaged."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in finished]


def test_runs_are_compared_without_tensorflow(finished):
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *map(str, finished)]
    assert subprocess.run(command, check=False).returncode == 0


def test_the_first_run_is_compared_with_each_other_one(finished, tmp_path):
    third = shutil.copytree(finished[1], tmp_path / "third")
    found = trainer.compare([str(finished[0]), trainer.open_run(finished[1]), third])
    assert [(pair.a, pair.b) for pair in found.pairs] == [("seed0", "seed1"), ("seed0", "third")]
    metrics = [trainer.open_run(run).metrics for run in finished]
    assert found.rows[0].summaries["roc_auc"].mean == pytest.approx(metrics[0].roc_auc)
    assert found.pairs[0].differences["accuracy"].value == pytest.approx(
        metrics[0].accuracy - metrics[1].accuracy
    )
    assert found.tested.examples == 25


def test_the_command_prints_the_tables_and_writes_them_into_model_dir(finished, tmp_path, command):
    named = ",".join(map(str, finished))
    result = command("--mode=compare", f"--runs={named}", f"--model_dir={tmp_path / 'out'}")
    assert result.returncode in {0, 3}, result.stderr
    assert "seed0 − seed1  ROC-AUC" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(comparison_report.FILES)
    written = (tmp_path / "out" / "comparison.txt").read_text()
    assert written in result.stdout
    document = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert document["command"].startswith("python -m trainer --mode=compare --runs=")
    found = trainer.compare(finished)
    assert result.returncode == (3 if found.guard_fired else 0)


def test_runs_of_one_folder_name_are_told_apart_by_their_paths(finished, tmp_path):
    other = shutil.copytree(finished[1], tmp_path / "seed0")
    found = trainer.compare([finished[0], other])
    assert [row.name for row in found.rows] == [str(finished[0]), str(other)]


def test_operating_points_are_compared_where_both_runs_have_one(copies):
    found = trainer.compare(copies)
    run = trainer.open_run(copies[0])
    point = run.evaluation.assessment.chosen
    accuracy = (run.predictions.decided(point.threshold) == run.predictions.label).mean()
    assert found.rows[0].summaries["accuracy_at_point"].mean == pytest.approx(accuracy)
    assert found.pairs[0].mcnemar_at_point
    assert "Accuracy at the operating point (%)" in str(found)
    assert str(found).count("chosen on validation by youden, in each run.") == 1


def test_a_run_without_an_operating_point_is_named(copies):
    (copies[1] / evaluated.PREDICTIONS_VALIDATION).unlink()
    found = trainer.compare(copies)
    assert not found.pairs[0].mcnemar_at_point
    assert f"in each run but {copies[1]}: a row has figures" in " ".join(found.points.split())


def test_a_point_that_was_chosen_after_the_report_is_not_compared(copies):
    """A run that was killed between validation and the report: both files are whole."""
    before = trainer.compare(copies).to_json()
    (copies[0] / evaluated.OPERATING_POINT).write_text('{"rule": "youden", "threshold": 0.05}')
    assert trainer.compare(copies).to_json() == before


def test_points_of_different_rules_are_left_out_with_a_sentence(copies):
    path = copies[1] / evaluated.REPORT
    document = json.loads(path.read_text())
    document["settings"]["operating_point"] = "sensitivity=0.99"
    path.write_text(json.dumps(document))
    found = trainer.compare(copies)
    assert not any(name.endswith("_at_point") for name in found.figure_names)
    assert not found.pairs[0].mcnemar_at_point
    shown = " ".join(str(found).split())
    assert shown.count("by different rules (youden, sensitivity=0.99)") == 1
    assert found.to_json()["operating_points"].startswith("Figures at the operating points are")


def _without_evaluation(run: Path) -> None:
    (run / "report.json").unlink()


def _without_an_example(run: Path) -> None:
    table = run / "predictions_test.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_without_evaluation, RunError, r"has no evaluation \(.*report.json is missing\)"),
        (_without_an_example, ConfigError, r"1 differ in name, label or patient, such as .*jpe?g"),
    ],
    ids=["no evaluation", "other examples"],
)
def test_what_can_not_be_compared_is_refused_in_one_line(copies, damage, error, message):
    damage(copies[1])
    with pytest.raises(error, match=message) as raised:
        trainer.compare(copies)
    assert "\n" not in str(raised.value)


def test_a_comparison_replaces_its_own_tables_with_a_line(finished, tmp_path, command):
    named, place = ",".join(map(str, finished)), tmp_path / "out"
    for is_first in (True, False):
        result = command("--mode=compare", f"--runs={named}", f"--model_dir={place}")
        assert (f"replaces the comparison in {place}." in result.stdout) is not is_first


def test_a_comparison_of_backbones_is_not_replaced(finished, tmp_path, command):
    files.save_json(tmp_path / compare.FINISHED, {})
    named = ",".join(map(str, finished))
    result = command("--mode=compare", f"--runs={named}", f"--model_dir={tmp_path}")
    assert result.returncode == 2
    assert "holds a comparison of backbones" in result.stderr


def test_one_run_alone_is_refused(finished):
    with pytest.raises(ConfigError, match=r"runs \(1\) must be two or more"):
        trainer.compare([finished[0]])
    with pytest.raises(ConfigError, match="names one run twice"):
        trainer.compare([finished[0], f"{finished[0]}/"])
    with pytest.raises(ConfigError, match="names one run twice"):
        trainer.compare([finished[0], finished[1] / ".." / finished[0].name])
    with pytest.raises(ConfigError, match="must be a list of two or more runs"):
        trainer.compare(str(finished[0]))
