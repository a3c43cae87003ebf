"""`--mode=predict`: scores files with the model of a finished run, and writes a worklist.

worklist = predict.predict("runs/a", ["scans/", "more.zip"])
worklist.rows[0].file
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer --mode=predict")

import collections
import contextlib
import dataclasses
import datetime
import hashlib
import os
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trainer import option_groups, usage
from trainer.commands import evaluate
from trainer.distribution import runtime
from trainer.errors import ConfigError, RunError
from trainer.inference import (
    file_lists,
    gradcam,
    heatmaps,
    prediction,
    scoring,
    sources,
    thumbnails,
    worklist,
)
from trainer.inference.prediction import RowBuilder
from trainer.inference.worklist import Journal, Worklist
from trainer.reports.pages import worklist_page
from trainer.runs import run_directory, trained, validation_sample
from trainer.runs.trained import Run
from trainer.storage import locations
from trainer.system import console, signals, text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trainer.config import Config
    from trainer.inference.sources import ImageFile
    from trainer.inference.worklist import WorklistRow
    from trainer.reports.pages.worklist_page import Thumbnail

    Explain = Callable[
        [Run, Sequence[WorklistRow], Mapping[str, ImageFile], pathlib.Path],
        tuple[list[WorklistRow], str],
    ]

_SOFTWARE = ("cxr-trainer", "tensorflow", "keras", "pillow", "pydicom", "python-gdcm")
"""What reads and scores files."""
FOLDER = "predictions"
"""Of a run, for worklists whose place was not named."""


def predict(
    run: Run | str | pathlib.Path,
    images: str | pathlib.Path | Sequence[str | pathlib.Path],
    output_dir: str | pathlib.Path = "",
    **options: Any,
) -> Worklist:
    """Scores files with the model of a finished run; the same call again resumes.

        worklist = trainer.predict("runs/a", ["scans/", "more.zip"])
        [row.file for row in worklist.rows if "unlike_training_data" in row.flags]

    Args:
      run: a run, or its directory.
      images: files, folders, globs, zips or CSV lists with a column `file`; one or several.
      output_dir: where the worklist is written; empty: `predictions` in the run directory.
      **options: of devices, by flag name, such as `batch_size`.

    Raises:
      ConfigError: for an option that is unknown or invalid, or if there are no such files.
      RunError: when the run or the devices are not available, or no file can be read.
    """
    opened = run if isinstance(run, Run) else trained.open_run(run)
    paths = paths_of(images)
    given = {"images": ",".join(paths), "output_dir": output_dir, "model_dir": opened.path}
    config = opened.config.for_finished_run({**options, **given})
    with signals.watched():
        return worklist_of(config, paths, "predict")


def run(config: Config) -> Worklist:
    """Predicts for the command line, and prints the summary."""
    found = worklist_of(config, sources.split(config.inference.images), "predict")
    console.say(str(found))
    return found


def paths_of(images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Returns the paths in an argument of the Python API.

    Raises:
      ConfigError: when it is none, or has other members.
    """
    is_one = isinstance(images, str | os.PathLike)
    paths: list[Any] = list(images) if isinstance(images, Iterable) and not is_one else [images]
    for path in paths:
        option_groups.require("images", path, (str, os.PathLike), "a path, or a list of paths")
    decoded = [os.fsdecode(path) for path in paths]
    sources.check(decoded)
    return decoded


def worklist_of(
    config: Config, paths: Sequence[str], mode: str, explain: Explain | None = None
) -> Worklist:
    """Scores files, and writes their worklist.

    Args:
      config: the run's options, with those of this command.
      paths: what `images` names.
      mode: of the command.
      explain: draws heat maps of the rows that were read; returns all rows, in their order and with
        their paths, and the method. None: those that were drawn before are shown.
    """
    context = runtime.build(config.runtime)
    evaluate.require_one_host(context, mode)
    for line in context.unused:
        console.say(line)
    with (
        # Not the chief: nothing is written into a run in a bucket, and nothing uploaded.
        run_directory.restore(config, is_chief=False) as directory,
        contextlib.ExitStack() as stack,
    ):
        finished = trained.require_finished(directory)
        folder = output_folder(config, directory, FOLDER)
        found = stack.enter_context(sources.opened(paths, folder / heatmaps.FOLDER))
        stack.enter_context(worklist.claimed(folder))
        config = evaluate.with_batch_size(config, finished.config.data.batch_size, context)
        evaluate.facts_of_model(finished)  # Said before the model is built.
        with context.strategy.scope():  # The model is loaded here, and creates its variables.
            model = finished.model
        builder = row_builder_of(finished)
        scorer = scoring.for_batches(model, context.strategy, config.data.batch_size)
        digest, software = digest_of(directory), usage.versions(*_SOFTWARE)
        path = folder / worklist.JOURNAL
        journal = Journal.open(path, digest, builder.class_names, software)
        count = prediction.predict(found.candidates, scorer, builder, journal)
        if before := len(found.candidates) - count:
            console.say(f"{before:,} of {len(found.candidates):,} files were done before.")
        done = _assembled(finished, journal, found)
        base = finished.config.for_finished_run({"model_dir": ""})
        summary = _summary(config, builder, done, config.command_line(base, mode=mode))
        pictures = _write(done, summary, found)
        # What is stopped while it draws has left its worklist.
        explain = explain or _with_earlier_maps
        rows, method = explain(finished, done.rows, found.by_name, folder)
        if not method:
            return done
        done = dataclasses.replace(done, rows=tuple(rows))
        summary = dataclasses.replace(summary, heatmap=method)
        _write_files(done, summary, thumbnails.overlaid(pictures, done.rows, folder))
        return done


def _assembled(run: Run, journal: Journal, found: sources.Found) -> Worklist:
    """Returns the worklist of the files that were named, of all that the journal has."""
    rows = worklist.marked(journal.rows[candidate.name] for candidate in found.candidates)
    ordered = tuple(worklist.by_urgency(rows))
    columns, notes = _columns_of(found.candidates)
    return Worklist(journal.folder, ordered, (*found.notes, *notes), _warnings(run), columns)


def row_builder_of(run: Run) -> RowBuilder:
    """Returns what turns the outputs of a run's model into classes and flags.

    Raises:
      RunError: when the model was saved by a version that did not say what its classes are, says
        wrong ones, or has a sample of another model's validation beside it.
    """
    facts = evaluate.facts_of_model(run)
    if (count := run.model.output.shape[-1]) != len(facts["class_names"]):
        raise RunError(
            f"{run.directory.best_model} names {len(facts['class_names'])} classes and has "
            f"{text.counted(count, 'output')}; restore it from a copy."
        )
    known = validation_sample.load_known_images(run.directory.path)
    if known is not None:
        evaluate.require_features(run, known.features)
    else:
        console.say(
            "unlike_training_data: not told, as the run kept too little of its validation split."
        )
    return RowBuilder(facts, known)


def output_folder(config: Config, directory: run_directory.RunDirectory, name: str) -> pathlib.Path:
    """Returns the folder to write into: the one that was named, or one in the run directory.

    Raises:
      ConfigError: when none was named, and the run is in a bucket.
    """
    if config.inference.output_dir:
        return pathlib.Path(config.inference.output_dir).expanduser()
    if locations.is_url(config.model_dir):
        raise ConfigError(
            f"the run is in a bucket ({config.model_dir}): name a local folder as --output_dir."
        )
    return directory.folder(name)


def digest_of(directory: run_directory.RunDirectory) -> str:
    """Returns what changes with the model, its operating point, or its sample of validation."""
    found = hashlib.sha256()
    for path in (directory.best_model, directory.path / validation_sample.FILE):
        if path.exists():
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def origins_of(run: Run, rows: Sequence[WorklistRow], method: str) -> dict[str, str]:
    """Returns what decides the heat map of each row that was read, by file."""
    model = digest_of(run.directory)
    return {
        row.file: heatmaps.origin(
            model=model, method=method, of_class=row.predicted or "", image=row.digest
        )
        for row in rows
        if row.is_read
    }


def _with_earlier_maps(
    run: Run,
    rows: Sequence[WorklistRow],
    candidates: Mapping[str, ImageFile],  # noqa: ARG001 -- As whatever draws takes.
    folder: pathlib.Path,
) -> tuple[list[WorklistRow], str]:
    """Returns the rows with the heat maps that lie there, and their method, or none."""
    maps = folder / heatmaps.FOLDER
    is_ours = maps.is_dir() and not maps.is_symlink()
    for method in gradcam.METHODS if is_ours else ():
        if paths := heatmaps.kept(maps, origins_of(run, rows, method)):
            console.say(f"heat maps drawn before: {len(paths):,}; the worklist shows them.")
            return heatmaps.named(rows, paths), method
    return list(rows), ""


def _write(
    done: Worklist, summary: worklist_page.WorklistSummary, found: sources.Found
) -> dict[int, Thumbnail]:
    """Writes a worklist and its page; returns the pictures on it."""
    if (done.folder / worklist.CSV).exists():
        console.say(f"replaces the worklist in {done.folder}.")
    pictures = thumbnails.read(done.rows, found.by_name)
    _write_files(done, summary, pictures)
    if not done.num_read:
        reasons = collections.Counter(note for row in done.rows for note in row.notes)
        raise RunError(
            f"none of {text.counted(len(done.rows), 'file')} could be read; "
            f"{done.folder / worklist.CSV} says why of each, most often: "
            f"{text.one_line(reasons.most_common(1)[0][0]):.200}"
        )
    return pictures


def _write_files(
    done: Worklist, summary: worklist_page.WorklistSummary, pictures: Mapping[int, Thumbnail]
) -> None:
    worklist.write(done.folder, done.rows, done.columns)
    listed = [row.listed(rank) for rank, row in enumerate(done.rows, start=1)]
    worklist_page.write(done.folder / worklist.PAGE, summary, listed, pictures)


def _columns_of(
    candidates: Sequence[ImageFile],
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Returns for each file what lists say of it, under names of its own; and what was renamed."""
    names = file_lists.renamed((of.columns for of in candidates), worklist.COLUMNS)
    columns = {
        of.name: {new: of.columns.get(name, "") for name, new in names.items()} for of in candidates
    }
    moved = [f"{name} as {new}" for name, new in names.items() if name != new]
    shown = text.one_line(", ".join(moved))
    note = f"Columns of the list that the worklist has itself stand there too: {shown:.200}."
    return columns, (note,) if moved else ()


def _warnings(run: Run) -> tuple[str, ...]:
    """Returns why the run's model must not be used, as its evaluation found."""
    try:
        return run.evaluation.warnings
    except RunError as error:
        return (f"its evaluation can't be read ({text.clause(error)}).",)


def _summary(
    config: Config, builder: RowBuilder, done: Worklist, command: str
) -> worklist_page.WorklistSummary:
    facts = builder.facts
    names = facts["class_names"]
    positive = names[1] if len(names) == 2 else f"not {names[0]}"
    return worklist_page.WorklistSummary(
        model_dir=config.model_dir,
        class_names=facts["class_names"],
        positive_class=positive,
        threshold=facts["threshold"],
        rule=facts["rule"],
        temperature=facts["temperature"],
        files=len(done.rows),
        read=done.num_read,
        unreadable=len(done.rows) - done.num_read,
        positive=sum(done.predicted().get(name, 0) for name in facts["class_names"][1:]),
        flagged=done.flagged(),
        command=command,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        fingerprint=facts.get("data", {}).get("fingerprint", ""),
        licence=facts.get("license", ""),
        warnings=done.warnings,
    )
