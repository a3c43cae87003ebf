"""Trains and evaluates chest X-ray classifiers on frozen Keras backbones.

    import trainer

    config = trainer.Config.from_flat({"dataset": "phantom", "backbone": "mobilenet_v2"})
    run = trainer.train(config)
    run.metrics.roc_auc
    run.plot_history()
    trainer.evaluate(run, dataset="official", manual_dir="archive")
    trainer.compare([run, "runs/b"])
    trainer.predict(run, ["scans/", "more.zip"])
    trainer.export(run, ["onnx"])

Each name is imported when it is first used: TensorFlow takes seconds to import, and `open_run` and
`compare` do not need it.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from trainer.system import environment

if TYPE_CHECKING:
    from trainer.commands.compare import compare
    from trainer.commands.evaluate import evaluate
    from trainer.commands.explain import explain
    from trainer.commands.export import export
    from trainer.commands.predict import predict
    from trainer.commands.train import train
    from trainer.config import Config
    from trainer.errors import ConfigError, RunError
    from trainer.inference.exporting.results import Exports
    from trainer.inference.worklist import Worklist
    from trainer.reports.comparisons.comparison_report import Comparison
    from trainer.runs.evaluated import Evaluation
    from trainer.runs.trained import Run, open_run

# Keras chooses its backend when it is first imported, by this variable or its configuration file.
# If it has been imported already, `trainer.distribution.runtime` checks its choice.
if "keras" not in sys.modules:
    environment.choose_backend()

__all__ = [
    "Comparison",
    "Config",
    "ConfigError",
    "Evaluation",
    "Exports",
    "Run",
    "RunError",
    "Worklist",
    "compare",
    "evaluate",
    "explain",
    "export",
    "open_run",
    "predict",
    "train",
]

_MODULES = {
    "Comparison": "reports.comparisons.comparison_report",
    "Config": "config",
    "ConfigError": "errors",
    "Evaluation": "runs.evaluated",
    "Exports": "inference.exporting.results",
    "Run": "runs.trained",
    "RunError": "errors",
    "Worklist": "inference.worklist",
    "compare": "commands.compare",
    "evaluate": "commands.evaluate",
    "explain": "commands.explain",
    "export": "commands.export",
    "open_run": "runs.trained",
    "predict": "commands.predict",
    "train": "commands.train",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    with environment.warnings_shown():
        module = importlib.import_module(f"trainer.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    """Returns the public names only, for tab completion."""
    return sorted(__all__)
