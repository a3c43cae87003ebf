"""KerasTuner's trial statuses, as `keras_tuner.engine.trial.TrialStatus` spells them.

They are repeated here because that module loads TensorFlow, and reports must not.

    if trial.status == statuses.COMPLETED: ...
"""

RUNNING, COMPLETED, FAILED = "RUNNING", "COMPLETED", "FAILED"
IDLE, STOPPED = "IDLE", "STOPPED"
"""Of the placeholder that an oracle returns instead of a trial: ask again later; none is left."""
