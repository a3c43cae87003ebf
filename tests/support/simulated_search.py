"""A search without training: the test controls workers, deaths and scores."""

from __future__ import annotations

import random

from tuner import plan as plan_lib
from tuner import records, statuses
from tuner.oracles import algorithms
from tuner.settings import Settings
from tuner.space import Space

SPACE = Space.parse("neurons=64:512:64,learning_rate")
PLAN = plan_lib.hyperband(9, 3)


def _score(values: dict) -> float:
    """Returns a score with a single maximum; without the learning rate, scores would tie."""
    return 1 - abs(values["neurons"] - 300) / 1000 - abs(values.get("learning_rate", 0) - 1e-3)


class SimulatedSearch:
    """An oracle and its workers, in one thread; any worker may end its trial, or die, next."""

    def __init__(self, folder, settings=None, space=SPACE, plan=PLAN, workers=1) -> None:
        self._options = (settings or Settings(directory=str(folder)), space, plan)
        self.folder, self.names = folder, [f"worker-{i}" for i in range(workers)]
        self.time_s = 0.0
        self.restart()

    def restart(self) -> None:
        """Restarts from the files on disk, as after a SIGKILL of all processes."""
        settings, space, plan = self._options
        self.oracle = algorithms.build(settings, space, plan)
        self.oracle._clock = lambda: self.time_s
        self.oracle._set_project_dir(str(self.folder), settings.project_name)
        self.oracle.reload()
        self.held = {}

    def ask(self, name: str):
        trial = self.oracle.create_trial(name)
        if trial.status == statuses.RUNNING:
            self.held[name] = trial
        return trial.status

    def end(self, name: str, score=_score, reason: str = "") -> None:
        trial = self.held.pop(name)
        values = trial.hyperparameters.values
        record = records.TrialRecord(reason=reason)
        if not reason:
            curve = [
                {"epoch": i + 1, "val_auc": score(values)} for i in range(values["tuner/epochs"])
            ]
            record = records.of_curve(curve, values["tuner/epochs"], "val_auc", 1.0)
        records.save(self.oracle.trial_folder(trial.trial_id), record)
        self.oracle.end_trial(trial)

    def run(self, generator: random.Random | None = None, fails=lambda _: "", score=_score) -> dict:
        """Runs to the end, with workers finishing in random order; returns `scores`."""
        generator = generator or random.Random(0)
        while True:
            idle = [name for name in self.names if name not in self.held]
            states = {name: self.ask(name) for name in idle}
            if not self.held and statuses.STOPPED in states.values():
                return self.scores()
            name = generator.choice(sorted(self.held))
            self.end(name, score, fails(self.held[name].hyperparameters.values))

    def scores(self) -> dict:
        trials = self.oracle.trials.values()
        return {t.trial_id: (t.status, t.score, dict(t.hyperparameters.values)) for t in trials}
