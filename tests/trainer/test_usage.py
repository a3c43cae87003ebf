"""Wrong turns on the command line: each is one line that names what was meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--max_epochs="], "max_epochs is empty; it must be a whole number."),
        (["--strategy"], "--strategy needs a value: one of auto, one_device, mirrored, multi_work"),
        (["--model_dir", "--seed=3"], "--model_dir needs a value, and --seed=3 follows it; give"),
        (["--max_epochs", "2", "3"], "unexpected argument '3': --max_epochs takes one value; put"),
        (["--use_all_samples", "false"], "write --use_all_samples=false, or --nouse_all_samples"),
        (["--seed=1e3"], "seed (1e3) must be a whole number, in digits; did you mean 1000?"),
        (["--seeds=0,1,2"], "must be a whole number: how many there are; --seed is the first."),
        (["--seed=4294967296"], "seed (4294967296) must be less than 4294967296."),
        (["--learning_rate=0,001"], "must be a number, with a point; did you mean 0.001?"),
        (["--dropout=50%"], "must be a number, without a unit; did you mean 0.5?"),
        (["--dropout=7,5 %"], "must be a number, without a unit; did you mean 0.075?"),
        (["--max_epochs=50%"], "max_epochs (50%) must be a whole number."),
        (["--worker_timeout_s=5min"], "must be a number, without a unit; did you mean 300?"),
        (["--cache_budget_gb=500 MB"], "must be a number, without a unit; did you mean 0.5?"),
        (["--image_size=224px"], "must be a whole number, without a unit; did you mean 224?"),
        (["--neurons=9x"], "neurons (9x) must be a whole number."),
        (["--split=val"], "unknown option --split: an evaluation is of the test split; what valid"),
        (["—epochs=2"], "starts with a long dash instead of two hyphens; did you mean --max_epo"),
        (["–seed", "2"], "starts with a long dash instead of two hyphens; did you mean --seed?"),
        (["--dataset=‘paper’"], "has typographic quotes, which are part of the value; write ' or"),
        (["“--seed=2”"], "has typographic quotes, which are part of the value; write ' or"),
        (
            ["--flagfile=absent"],
            "flagfile (absent) can't be read: No such file or directory; give the p",
        ),
        (
            ["--flagfile=tests"],
            "flagfile (tests) can't be read: Is a directory; give the path of a file",
        ),
        (["--flagfile"], "--flagfile needs a value: a file of options."),
        (["--h"], "unknown option --h; did you mean --help?"),
        (["help"], "'help'; options start with --; did you mean --help?"),
        (["version"], "'version'; options start with --; did you mean --version?"),
        (["eval"], "'eval'; options start with --; did you mean --mode=evaluate?"),
        (["--strategy=gpu"], "multi_worker, tpu; did you mean auto or mirrored?"),
        (["--mode=inference"], "tpu_check; did you mean predict?"),
        (["--mode=gradcam"], "tpu_check; did you mean explain?"),
        (["--mode=tflite"], "tpu_check; did you mean export?"),
        (["--model_dir=GS://b/a"], "(GS://b/a) has its scheme in capitals; write gs://BUCKET/PREF"),
        (["--data_dir=file:///a"], "data_dir (file:///a) is a URL of a local path; write /a."),
        (["--manual_dir=gs:/a"], "manual_dir (gs:/a) must be a local path; only model_dir, data_"),
    ],
)
def test_a_wrong_turn_is_one_line_that_names_what_was_meant(command, args, message):
    _assert_one_line(command(*args), message)


def _assert_one_line(result: subprocess.CompletedProcess[str], message: str) -> None:
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("line", "message"), [("--bach_size=3", "did you mean --batch_size?"), ("quux", "'quux'; opt")]
)
def test_a_flagfile_is_explained_as_the_command_line_is(command, tmp_path, line, message):
    file = tmp_path / "flags"
    file.write_text(line)
    _assert_one_line(command(f"--flagfile={file}"), message)


@pytest.mark.parametrize("content", ['{"seed": 3}', '{\n  "seed": 3\n}\n'])
def test_a_flagfile_of_json_is_a_config_file(command, tmp_path, content):
    file = tmp_path / "a.json"
    file.write_text(content)
    message = f"flagfile ({file}) is JSON; give --config_file={file}."
    _assert_one_line(command(f"--flagfile={file}"), message)


@pytest.fixture
def search(tmp_path):
    """A folder with the files of a search."""
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "search.json").write_text('{"algorithm": "grid"}')
    (folder / "oracle.json").write_text('{"trials": []}')
    return folder


@pytest.mark.parametrize(
    ("args", "without", "message"),
    [
        (["--mode=evaluate", "--model_dir={s}"], "is a search, not a run; it has no best trial yet",
         "is a search, not a run; train its best first: --config_file={s}/best_config.json --mo"),
        (["--config_file={s}"], "is a search's folder; it has no best trial yet: run it to its",
         "({s}) is a search's folder; give {s}/best_config.json."),
        (["--config_file={s}/search.json"], "is a search's own file; it has no best",
         "is a search's own file; give {s}/best_config.json."),
        (["--config_file={s}/oracle.json"], "is a search's own file; it has no best",
         "is a search's own file; give {s}/best_config.json."),
    ],
)  # fmt: skip
def test_a_search_that_is_taken_for_a_run_names_its_best(command, search, args, without, message):
    words = [arg.format(s=search) for arg in args]
    _assert_one_line(command(*words), without)
    (search / "best_config.json").write_text("{}")
    _assert_one_line(command(*words), message.format(s=search))


def test_a_search_whose_best_was_trained_again_names_that_run(command, search):
    run = search / "refit" / "b0-r1-03" / "seed-0"
    run.mkdir(parents=True)
    for name in ("config.json", "best.keras"):
        (run / name).write_text("{}")
    result = command("--mode=evaluate", f"--model_dir={search}")
    _assert_one_line(
        result, f"is a search, not a run; its best, trained again, is --model_dir={run}."
    )


def test_a_config_file_of_nested_objects_shows_a_flat_one(command, tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"model": {"backbone": "vgg16"}}')
    _assert_one_line(command(f"--config_file={file}"), "is an object; options stand side by side")


@pytest.mark.parametrize(
    "module",
    ["trainer.benchmarks.plain_keras", "trainer.tpu.matrix", "tuner.benchmarks.plain_keras_tuner"],
)
@pytest.mark.parametrize("argument", ["--help", "absent.json"])
def test_a_module_that_takes_a_file_says_so(module, argument):
    result = subprocess.run(
        [sys.executable, "-m", module, argument], capture_output=True, text=True, timeout=60,
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("this module takes ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config_file=a.json", "--config_file=b.json"], "--config_file is given more than once"),
        (["--recipe=paper", "--recipe=quickstart"], "--recipe is given more than once; give one:"),
        (["--backbone=small_cnn "], 'backbone ("small_cnn ") must be one of'),
        (["--tail=wrap  "], 'tail ("wrap  ") must be one of wrap, drop; did you mean wrap?'),
    ],
)
def test_what_one_does_not_see_is_shown(command, args, message):
    _assert_one_line(command(*args), message)


def test_a_repeated_flag_of_a_flagfile_counts(command, tmp_path):
    file = tmp_path / "flags"
    file.write_text("--recipe=paper")
    _assert_one_line(command(f"--flagfile={file}", "--recipe=paper"), "--recipe is given more than")


@pytest.fixture
def run(tmp_path):
    """A folder with the files of a run."""
    folder = tmp_path / "q"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "report.json").write_text('{"metrics": {"accuracy": 1}}')
    (folder / "best.keras").write_text("garbage")
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a folder; give {run}/config.json."),
        ("/", "is a folder; give {run}/config.json."),
        ("/report.json", "is no file of options; give {run}/config.json."),
        ("/checkpoints", "is a folder; give {run}/config.json."),
        ("/../..", "is a folder; give the path of a JSON file of options, such as"),
        ("/confg.json", "No such file or directory; did you mean {run}/config.json?"),
        ("/x/y.json", "No such file or directory; give the path of a JSON file of options, such"),
    ],
)
def test_what_is_no_file_of_options_names_the_one_that_is(command, run, name, message):
    _assert_one_line(command(f"--config_file={run}{name}"), message.format(run=run))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--backbone=vgg16"], "training; leave it out: a finished run keeps its own, vgg16."),
        (["--seed=1", "--dropout=0.1"], "dropout (0.1) cannot be changed after training; leave"),
    ],
)  # fmt: skip
def test_an_option_of_training_is_to_be_left_out(command, run, args, message):
    _assert_one_line(command("--mode=evaluate", f"--model_dir={run}", *args), message)


def test_a_folder_inside_a_run_offers_the_run_for_weights(command, run):
    result = command(f"--weights={run}/checkpoints")
    _assert_one_line(result, f"no run has finished there; give --weights={run}.")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mode=evaluate", "--model_dir={run}", "--dataset=phantom"],
         ("best.keras is not a readable model: it is not a .keras archive, which is a zip file, or "
         "is cut off; restore it from a copy, or train again with another --model_dir.")),
        (["--weights={run}/x.h5", "--dataset=phantom"],
         "x.h5 can't be used: it is not an HDF5 file; download it again, or restore it from a "),
        (["--weights={run}", "--dataset=phantom"],
         "it is not a .keras archive, which is a zip file, or is cut off; download it again, or"),
    ],
)  # fmt: skip
def test_a_damaged_file_has_a_way_out_before_tensorflow_loads(command, run, args, message):
    (run / "x.h5").write_bytes(b"garbage" * 1000)
    result = command(*(arg.format(run=run) for arg in args))
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize("args", [["--mode=evaluate"], ["--recipe=quickstart"]])
def test_a_folder_with_another_programs_options_is_no_damaged_run(command, tmp_path, args):
    (tmp_path / "config.json").write_text('{"architectures": ["ViT"], "model_type": "vit"}')
    result = command(*args, f"--model_dir={tmp_path}")
    assert result.returncode == 1
    assert "config.json is not a run's (unknown option architectures): its folder" in result.stderr
    assert "holds other files; give a run's directory, or a new or empty one." in result.stderr
    assert result.stdout == ""


def test_a_mistyped_option_of_a_run_is_damage_in_one_sentence(command, tmp_path):
    (tmp_path / "config.json").write_text('{"quux": 1, "seed": 3}')
    result = command("--mode=evaluate", f"--model_dir={tmp_path}")
    assert "is damaged (unknown option quux; --help lists them all); restore it" in result.stderr
