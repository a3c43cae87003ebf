"""Times a search on this machine against plain KerasTuner with the same backbone.

    python -m tuner.benchmarks.race --dataset=paper --backbone=vgg16 --max_epochs=20 \
        --search=neurons,learning_rate,layers_to_unfreeze=0 --project_name=bench

The search runs in its own process, from an empty cache to the last trial. Plain KerasTuner runs one
trial per cut on --benchmark_images images; its time is extrapolated to all trials, epochs and
images. With --timed_only, the time of the search is extrapolated as well, from a few steps of each
cut, as by `python -m tuner --dry_run`.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

from trainer.benchmarks import race
from trainer.models import precision
from trainer.storage import files
from trainer.system import console, exits, processes
from tuner import __main__ as command_line
from tuner import flags as tuner_flags
from tuner.trials import estimate, features, tasks

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Sequence

    from trainer.config import Config
    from tuner.plan import Plan
    from tuner.space import Space

EPOCHS = 2
"""Of a timed trial: the first includes tracing, the second is typical of the others."""


@dataclasses.dataclass(frozen=True)
class PlainTunerTimes:
    """Times of plain KerasTuner, extrapolated to all images.

    Attributes:
      setup_s: setup time of a trial, with the extra time of its first epoch.
      epoch_s: time of an epoch, averaged over the cuts.
    """

    setup_s: float
    epoch_s: float

    def seconds(self, plan: Plan) -> float:
        """Returns the time that a plan takes."""
        return plan.num_trials * self.setup_s + plan.num_epochs * self.epoch_s


def run(command: tuner_flags.TunerCommand, argv: Sequence[str], *, is_timed_only: bool) -> None:
    """Times both sides; prints and saves the times and their ratio."""
    base, settings = command.base, command.settings
    space = settings.space_for(base)
    settings.require_free_folder()  # The search would say it, after plain KerasTuner was timed.
    workspace = tasks.Workspace(base)
    base = base.with_precision(precision.choose(base, workspace.context).policy)
    base = base.with_batch_size(workspace.context.batch_size_for(base.data.batch_size))
    workspace.base = base
    plan = settings.plan(space, base.optimization.max_epochs)
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    console.say(f"plain KerasTuner on {base.benchmark.benchmark_images} images ...")
    theirs = _time_plain(workspace, space, folder)
    their_s = theirs.seconds(plan)
    if is_timed_only:
        console.say("steps of the search ...")
        our_s = estimate.measure(workspace, _cuts(base, space)).seconds(plan)
    else:
        console.say("the search ...")
        our_s = processes.run(["tuner", *argv], folder / "search.log", exits.TRAINED).seconds
    record = {
        "plan": dataclasses.asdict(plan),
        "ours_s": our_s,
        "ours_is_scaled": is_timed_only,
        "plain_keras_tuner_s": their_s,
        "plain": dataclasses.asdict(theirs),
        "config": base.to_flat(),
    }
    files.save_json(folder / "benchmark.json", record)
    console.say(
        f"{plan.num_trials} trials, {plan.num_epochs} epochs of {space}: {our_s:,.0f} s"
        f"{' (scaled)' if is_timed_only else ''}, plain KerasTuner {their_s:,.0f} s (scaled): "
        f"1/{their_s / our_s:.1f}"
    )


def _time_plain(workspace: tasks.Workspace, space: Space, folder: pathlib.Path) -> PlainTunerTimes:
    base = workspace.base
    data = workspace.data(base)
    share = race.share_of(base, data)
    if not (folder / "images").exists():
        race.export_images(data, share, folder / "images", ("train", "validation"))
    options = {
        **race.plain_options(base, data, folder / "images"),
        "epochs": EPOCHS,
        "cuts": [int(c.model.layers_to_unfreeze) for c in _cuts(base, space)],
    }
    files.save_json(folder / "plain.json", options)
    process = processes.run(
        ["tuner.benchmarks.plain_keras_tuner", str(folder / "plain.json")], folder / "plain.log"
    )
    times: dict[str, Any] = json.loads(process.last_line)
    clocks = list(times["epochs_s"].values())
    epoch_s = statistics.mean(seconds[-1] for seconds in clocks)
    setup_s = (times["search_s"] - EPOCHS * epoch_s * len(clocks)) / len(clocks)
    return PlainTunerTimes(setup_s, epoch_s / share)


def _cuts(base: Config, space: Space) -> list[Config]:
    return features.configs_for(base, space, "val_auc")


def _main(command: tuner_flags.TunerCommand) -> int:
    is_timed_only = flags.FLAGS.timed_only  # noqa: TID251 -- A flag of this command alone.
    argv = [arg for arg in sys.argv[1:] if not arg.startswith("--timed_only")]
    logging.set_verbosity(command.verbosity)

    def work() -> int:
        run(command, argv, is_timed_only=is_timed_only)
        return exits.DONE

    return exits.code_of("tuner.benchmarks.race", work)


if __name__ == "__main__":
    tuner_flags.define()
    flags.DEFINE_boolean(
        "timed_only",
        default=False,
        help="extrapolate the time of the search too, from a few steps of each cut",
    )
    app.run(_main, flags_parser=command_line.parse)
