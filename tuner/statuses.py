"""The statuses of trials and the answers of an oracle that has none, as KerasTuner spells them.

KerasTuner's own are in a module that loads TensorFlow, which reports do without.

    if trial.status == statuses.COMPLETED: ...
"""

RUNNING, COMPLETED, FAILED = "RUNNING", "COMPLETED", "FAILED"
IDLE, STOPPED = "IDLE", "STOPPED"
"""Instead of a trial: ask again later, or there are no more."""
