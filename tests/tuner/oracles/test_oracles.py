"""Which trials an oracle proposes, tested without training."""

from __future__ import annotations

import random

import pytest

from tuner import plan as plan_lib
from tuner import records
from tuner.oracles import durable
from tuner.oracles.durable import Ladder, Outcome, Slot
from tuner.settings import Settings
from tuner.space import Space

SPACE = Space.parse("neurons=64:512:64,learning_rate")
PLAN = plan_lib.hyperband(9, 3)


def _score(values: dict) -> float:
    """A landscape with one summit; the learning rate alone would tie."""
    return 1 - abs(values["neurons"] - 300) / 1000 - abs(values.get("learning_rate", 0) - 1e-3)


class Search:
    """Workers of a search, in one thread: each has a trial, and any may end, or die, next."""

    def __init__(self, folder, settings=None, space=SPACE, plan=PLAN, workers=1) -> None:
        self._options = (settings or Settings(directory=str(folder)), space, plan)
        self.folder, self.names = folder, [f"worker-{i}" for i in range(workers)]
        self.time_s = 0.0
        self.restart()

    def restart(self) -> None:
        """As after a SIGKILL of all: what is on disk is all there is."""
        settings, space, plan = self._options
        self.oracle = durable.build(settings, space, plan)
        self.oracle._clock = lambda: self.time_s
        self.oracle._set_project_dir(str(self.folder), settings.project_name)
        self.oracle.reload()
        self.held = {}

    def ask(self, name: str):
        trial = self.oracle.create_trial(name)
        if trial.status == durable.RUNNING:
            self.held[name] = trial
        return trial.status

    def end(self, name: str, score=_score, reason: str = "") -> None:
        trial = self.held.pop(name)
        values = trial.hyperparameters.values
        record = records.Record(reason=reason)
        if not reason:
            curve = [
                {"epoch": i + 1, "val_auc": score(values)} for i in range(values["tuner/epochs"])
            ]
            record = records.of_curve(curve, values["tuner/epochs"], "val_auc", 1.0)
        records.save(self.oracle.trial_folder(trial.trial_id), record)
        self.oracle.end_trial(trial)

    def run(self, generator: random.Random | None = None, fails=lambda _: "") -> dict:
        """Goes on to the end, workers ending in whatever order; returns score by trial."""
        generator = generator or random.Random(0)
        while True:
            idle = [name for name in self.names if name not in self.held]
            states = {name: self.ask(name) for name in idle}
            if not self.held and durable.STOPPED in states.values():
                return self.scores()
            name = generator.choice(sorted(self.held))
            self.end(name, reason=fails(self.held[name].hyperparameters.values))

    def scores(self) -> dict:
        trials = self.oracle.trials.values()
        return {t.trial_id: (t.status, t.score, dict(t.hyperparameters.values)) for t in trials}


def test_a_search_has_the_trials_of_its_plan(tmp_path):
    found = Search(tmp_path).run()
    assert len(found) == PLAN.num_trials
    by_rung = [Slot.of(name) for name in found]
    for number, bracket in enumerate(PLAN.brackets):
        for level, rung in enumerate(bracket.rungs):
            assert sum(s.bracket == number and s.rung == level for s in by_rung) == rung.trials


def test_the_best_of_a_rung_are_promoted_with_their_values(tmp_path):
    found = Search(tmp_path).run()
    first = {n: found[n] for n in found if n.startswith("b0-r0-")}
    ranked = sorted(first, key=lambda name: -first[name][1])
    promoted = sorted(Slot.of(n).index for n in found if n.startswith("b0-r1-"))
    assert promoted == sorted(Slot.of(n).index for n in ranked[:3])
    for index in promoted:
        below, above = found[f"b0-r0-{index:02d}"][2], found[f"b0-r1-{index:02d}"][2]
        assert {k: v for k, v in below.items() if "tuner" not in k} == {
            k: v for k, v in above.items() if "tuner" not in k
        }
        assert above["tuner/initial_epoch"] == below["tuner/epochs"] == 1
        assert above["tuner/configuration"] == below["tuner/configuration"]


@pytest.mark.parametrize("seed", range(5))
def test_timing_and_workers_change_nothing(tmp_path, seed):
    alone = Search(tmp_path / "alone").run()
    together = Search(tmp_path / "together", workers=3).run(random.Random(seed))
    assert together == alone


@pytest.mark.parametrize("seed", range(5))
def test_kills_change_nothing(tmp_path, seed):
    expected = Search(tmp_path / "undisturbed").run()
    search, generator = Search(tmp_path / "killed", workers=2), random.Random(seed)
    while True:
        states = [search.ask(name) for name in search.names if name not in search.held]
        if not search.held and durable.STOPPED in states:
            break
        if generator.random() < 0.3:
            search.restart()
        elif search.held:
            search.end(generator.choice(sorted(search.held)))
    assert search.scores() == expected


@pytest.mark.parametrize("algorithm", ["random", "grid", "bayesian"])
def test_other_algorithms_are_as_durable(tmp_path, algorithm):
    settings = Settings(directory=str(tmp_path), algorithm=algorithm)
    space = Space.parse("neurons=64:512:64,dropout=0:0.3:0.1,learning_rate=1e-3|1e-2")
    options = {"settings": settings, "space": space, "plan": plan_lib.flat(12, 4)}
    expected = Search(tmp_path / "a", **options).run()
    assert len(expected) == 12
    killed = Search(tmp_path / "b", **options)
    for _ in range(8):
        killed.ask("worker-0")
        killed.restart()
        killed.ask("worker-0")
        killed.end("worker-0")
    killed.restart()
    assert killed.run() == expected


def test_a_failed_trial_is_replaced_by_a_new_draw(tmp_path):
    def fails(values):
        return "diverged: the loss is nan" if values["neurons"] > 380 else ""

    alone = Search(tmp_path / "a").run(fails=fails)
    together = Search(tmp_path / "b", workers=3).run(random.Random(3), fails=fails)
    assert alone == together
    failed = [name for name, (status, *_) in alone.items() if status == durable.FAILED]
    assert failed
    completed = [Slot.of(n) for n, (status, *_) in alone.items() if status == durable.COMPLETED]
    assert len(completed) == PLAN.num_trials
    assert all(alone[name][2]["neurons"] > 380 for name in failed)


def test_one_that_fails_after_promotion_is_replaced_by_the_next_best():
    ladder = Ladder(PLAN, durable.Draws.random(SPACE, 0), "max")
    outcomes = {f"b0-r0-{i:02d}": Outcome("COMPLETED", score=i / 10) for i in range(9)}
    outcomes |= {"b0-r1-08": Outcome("FAILED"), "b0-r1-07": Outcome("COMPLETED", 0.9)}
    outcomes |= {"b0-r1-06": Outcome("RUNNING")}
    assert ladder.next(outcomes) == Slot(0, 1, 5)


def test_a_rung_waits_for_the_one_below_but_other_brackets_do_not():
    ladder = Ladder(PLAN, durable.Draws.random(SPACE, 0), "max")
    outcomes = {f"b0-r0-{i:02d}": Outcome("COMPLETED", score=i / 10) for i in range(8)}
    outcomes["b0-r0-08"] = Outcome("RUNNING")
    assert ladder.next(outcomes) == Slot(1, 0, 0)


def test_a_search_ends_when_trials_fail_one_after_another_for_one_reason(tmp_path):
    search = Search(tmp_path)
    search.run(fails=lambda _: "impossible: no such layer")
    assert len(search.oracle.trials) == 5
    assert "5 trials in a row failed for one reason (impossible" in search.oracle.stopped_because


def test_failures_for_different_reasons_do_not_end_it(tmp_path):
    reasons = iter(["diverged: nan", "out of memory: 3 GiB"] * 100)
    search = Search(tmp_path)
    found = search.run(
        fails=lambda v: next(reasons) if v["tuner/round"] == 0 and v["neurons"] > 200 else ""
    )
    assert not search.oracle.stopped_because
    assert any(status == durable.COMPLETED for status, *_ in found.values())


def test_a_silent_workers_trial_goes_to_another(tmp_path):
    search = Search(tmp_path, workers=2)
    search.ask("worker-0")
    lost = search.held.pop("worker-0").trial_id
    search.ask("worker-1")
    assert search.held["worker-1"].trial_id != lost
    search.end("worker-1")
    search.time_s = 59
    search.oracle.get_trial(lost)  # A sign of life.
    search.time_s = 118
    search.ask("worker-1")
    assert search.held["worker-1"].trial_id != lost
    search.end("worker-1")
    search.time_s = 180
    search.ask("worker-1")
    assert search.held["worker-1"].trial_id == lost


def test_a_trial_whose_process_dies_every_time_is_given_up(tmp_path):
    search = Search(tmp_path)
    for _ in range(durable.MAX_HANDOUTS):
        search.restart()
        search.ask("worker-0")
        assert search.held["worker-0"].trial_id == "b0-r0-00"
    search.restart()
    search.ask("worker-0")
    assert search.held["worker-0"].trial_id == "b0-r0-01"
    assert "process died 5 times" in search.oracle.trials["b0-r0-00"].message


def test_a_space_smaller_than_the_plan_is_searched_whole(tmp_path):
    found = Search(tmp_path, space=Space.parse("neurons=64:256:64,dropout=0|0.5")).run()
    assert len({(v["neurons"], v["dropout"]) for _, _, v in found.values()}) == 8
    assert all(status == durable.COMPLETED for status, *_ in found.values())


def test_state_is_replaced_whole(tmp_path, monkeypatch):
    search = Search(tmp_path)
    search.ask("worker-0")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    monkeypatch.setattr("json.dumps", lambda *_, **__: "{half")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        search.oracle.save()
    assert {p: p.read_bytes() for p in before} == before
