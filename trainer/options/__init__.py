"""The options of a training run, in groups; their defaults are defined only here.

A function takes the smallest group that it needs. `trainer.config` joins the groups into one tree.

    DataOptions(batch_size=64).batch_size
"""

from trainer.options.comparison import ComparisonOptions
from trainer.options.data import DATASETS, DataOptions, FeatureOptions
from trainer.options.evaluation import EvaluationOptions
from trainer.options.inference import EXPORT_FORMATS, InferenceOptions
from trainer.options.model import ALL_LAYERS, ModelOptions
from trainer.options.optimization import MONITORS, OptimizationOptions
from trainer.options.running import BenchmarkOptions, CheckpointOptions, RuntimeOptions

__all__ = [
    "ALL_LAYERS",
    "DATASETS",
    "EXPORT_FORMATS",
    "MONITORS",
    "BenchmarkOptions",
    "CheckpointOptions",
    "ComparisonOptions",
    "DataOptions",
    "EvaluationOptions",
    "FeatureOptions",
    "InferenceOptions",
    "ModelOptions",
    "OptimizationOptions",
    "RuntimeOptions",
]
