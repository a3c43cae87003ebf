"""The configuration of one training run: a frozen tree of options.

`trainer.options` defines the groups and their defaults; this module joins them and checks
options of different groups against each other. The tree is saved as one flat JSON object of flag
names, so that moving an option to another group breaks no saved run.

    config = Config.from_flat({"dataset": "paper", "backbone": "mobilenet_v2"})
    config.model.backbone            # "mobilenet_v2"
    config.to_flat()["max_epochs"]   # 30
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from trainer import effects, option_groups
from trainer.errors import ConfigError, RunError
from trainer.options import (
    BenchmarkOptions,
    CheckpointOptions,
    ComparisonOptions,
    DataOptions,
    EvaluationOptions,
    FeatureOptions,
    InferenceOptions,
    ModelOptions,
    OptimizationOptions,
    RuntimeOptions,
)
from trainer.storage import locations
from trainer.system import environment, hints, text

if TYPE_CHECKING:
    from collections.abc import Iterator

MACHINES = ("strategy", "tpu", "num_logical_devices", "local_workers", "data_service")
"""Options that select the machines and devices of a run; a trained model can be used on others."""

WANTED = "a trainer.Config; trainer.Config.from_flat makes one of options by name"
"""What an argument that is none should be."""

LENGTHS = ("max_epochs", "patience", "schedule_epochs")
"""Options that decide when training ends. A run continues with others, if they leave the
learning rates of its epochs as they were."""


@dataclasses.dataclass(frozen=True)
class Config(option_groups.Named):
    """The options of one training run. Equal configs and equal data give equal results.

    config = trainer.Config.from_flat({"dataset": "phantom", "max_epochs": 5})
    config.data.dataset, config.optimization.max_epochs
    """

    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    optimization: OptimizationOptions = dataclasses.field(default_factory=OptimizationOptions)
    features: FeatureOptions = dataclasses.field(default_factory=FeatureOptions)
    runtime: RuntimeOptions = dataclasses.field(default_factory=RuntimeOptions)
    checkpoints: CheckpointOptions = dataclasses.field(default_factory=CheckpointOptions)
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)
    benchmark: BenchmarkOptions = dataclasses.field(default_factory=BenchmarkOptions)
    comparison: ComparisonOptions = dataclasses.field(default_factory=ComparisonOptions)
    inference: InferenceOptions = dataclasses.field(default_factory=InferenceOptions)
    model_dir: str = ""

    @classmethod
    def _hint_for(cls, name: str) -> str:
        """Answers an option's name with its group, which is the field."""
        for group, members in _groups():
            if name in [field.name for field in members]:
                kind = group.default_factory.__name__
                return (
                    f'; give {group.name}={kind}({name}=...), or Config.from_flat({{"{name}": '
                    "...})."
                )
        return super()._hint_for(name)

    def __post_init__(self) -> None:
        """Checks the groups' types, and options of different groups against each other.

        Raises:
          ConfigError: for a value of another type, or options that exclude each other.
        """
        for group, _ in _groups():
            kind: Any = group.default_factory
            wanted = f"{kind.__name__} of trainer.options; Config.from_flat takes options by name"
            option_groups.require(group.name, getattr(self, group.name), kind, wanted)
        object.__setattr__(self, "model_dir", option_groups.plain(self.model_dir))
        option_groups.require("model_dir", self.model_dir, str, "text or a path")
        self._check_paths()
        if self.features.views and self.features.feature_cache == "off":
            raise ConfigError(
                f"views ({self.features.views}) needs the feature cache, but feature_cache is off."
            )
        if self.features.views and self.data.augmentation == "none":
            raise ConfigError(
                f"views ({self.features.views}) needs --augmentation=light or strong: without "
                "augmentation, all views would be equal."
            )

    def _check_paths(self) -> None:
        local = {
            "manual_dir": self.data.manual_dir,
            "staging_dir": self.data.staging_dir,
            "weights": self.model.weights,
            "output_dir": self.inference.output_dir,
        }
        for name, path in local.items():
            if locations.is_remote(path):
                raise ConfigError(
                    f"{name} ({text.visible(path):.200}) must be a local path; only model_dir, "
                    "data_dir and cache_dir may be in a bucket."
                )
        anywhere = {
            "model_dir": self.model_dir,
            "data_dir": self.data.data_dir,
            "cache_dir": self.features.cache_dir,
        }
        for name, path in (local | anywhere).items():
            try:
                locations.check(path)
            except locations.LocationError as error:
                shown = text.visible(path)
                raise ConfigError(f"{name} ({shown:.200}) {error}.") from error

    @property
    def cache_root(self) -> pathlib.Path:
        """The local folder of the feature cache and of the measured CPU precisions."""
        path = self.features.cache_dir
        if locations.is_url(path):
            return locations.parse(path).folder_in(self.data.staging_root)
        return pathlib.Path(path).expanduser() if path else environment.cache_folder()

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Creates a config from flag names and values; options not named keep their defaults.

        Raises:
          ConfigError: for an unknown name or an invalid value.
        """
        check_names(values)
        return cls(
            **{
                group.name: group.default_factory(
                    **{f.name: values[f.name] for f in members if f.name in values}
                )
                for group, members in _groups()
            },
            model_dir=values.get("model_dir", ""),
        )

    def to_flat(self) -> dict[str, Any]:
        """Returns the value of every option by flag name; the inverse of `from_flat`."""
        options = {f.name: getattr(getattr(self, group), f.name) for group, f in fields()}
        return {**options, "model_dir": self.model_dir}

    def changes_from(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """Returns the changed options that affect results: name -> (other's value, ours).

        A value that changes nothing, because of others, is no change; nor is our automatic batch
        size: a run keeps the one that it got.
        """
        option_groups.require("other", other, Config, WANTED)
        ours, theirs = self.to_flat(), other.to_flat()
        in_vain = set(effects.idle(ours)) & set(effects.idle(theirs))
        if not ours["batch_size"]:
            in_vain.add("batch_size")
        of_result = [f.name for _, f in fields() if f.metadata["option"].of_result]
        names = [name for name in of_result if name not in in_vain]
        return {name: (theirs[name], ours[name]) for name in names if theirs[name] != ours[name]}

    def command_line(self, base: Config | None = None, **others: str) -> str:
        """Returns the command that runs this config, without values that it would refuse.

        Args:
          base: leave out options that have the same value as here; None: the defaults.
          **others: flags that are not options of a run, such as `mode`.
        """
        base = Config() if base is None else base
        option_groups.require("base", base, Config, WANTED)
        ours, theirs = self.to_flat(), base.to_flat()
        left_out = effects.refused(ours, others.get("mode", "train"))
        changed = {
            name: value
            for name, value in ours.items()
            if value != theirs[name] and name not in left_out
        }
        flags = [f"--{name}={_text(value)}" for name, value in {**others, **changed}.items()]
        return shlex.join(["python", "-m", "trainer", *flags])

    def for_finished_run(self, given: Mapping[str, Any]) -> Self:
        """Returns the config for a command that uses the model trained with this config.

        Args:
          given: options that replace those of the run, by name.

        Raises:
          ConfigError: for an option that can't be changed after training, an unknown option, or an
            invalid value.
        """
        check_after_training(given, self.to_flat())
        # The model may have been trained on another machine, whose devices this one lacks.
        kept = {name: value for name, value in self.to_flat().items() if name not in MACHINES}
        return self.from_flat({**kept, **given})

    def with_precision(self, policy: str) -> Self:
        """Returns this config with the given dtype policy as its precision."""
        return dataclasses.replace(
            self, runtime=dataclasses.replace(self.runtime, precision=policy)
        )

    def with_batch_size(self, batch_size: int) -> Self:
        """Returns this config with the given batch size, where 0 left it to the replicas."""
        return dataclasses.replace(self, data=dataclasses.replace(self.data, batch_size=batch_size))


def of_saved(values: Mapping[str, Any], place: object, way_out: str) -> Config:
    """Returns the config of a run from what its config.json holds.

    Raises:
      RunError: for a value that no run has: the file is damaged, or another program's.
    """
    try:
        return Config.from_flat(values)
    except ConfigError as error:
        known = {field.name for _, field in fields()}
        if values and known.isdisjoint(values):
            raise RunError(
                f"{place} is not a run's ({text.clause(str(error).partition(';')[0])}): its "
                "folder holds other files; give a run's directory, or a new or empty one."
            ) from error
        raise RunError(f"{place} is damaged ({text.clause(error)}); {way_out}.") from error


def check_names(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for a name that is no option's, and names the nearest."""
    _require_mapping(values)
    known = [*(field.name for _, field in fields()), "model_dir"]
    for name, value in values.items():
        if not isinstance(name, str):
            raise ConfigError(f"unknown option {text.shown(name)}; an option's name is text.")
        if isinstance(value, dict) and name not in known:
            raise ConfigError(
                f"{text.one_line(name):.200} ({text.shown(value)}) is an object; options stand "
                'side by side in one, such as {"backbone": "vgg16", "max_epochs": 5}.'
            )
    for name in sorted(set(values) - set(known)):
        hint = hints.option(name, known) or "; --help lists them all."
        raise ConfigError(f"unknown option {text.one_line(name):.200}{hint}")


def _require_mapping(values: Any) -> None:
    wanted = 'a dict of options by name, such as {"max_epochs": 5}'
    option_groups.require("options", values, Mapping, wanted)


def check_after_training(
    given: Mapping[str, Any], own: Mapping[str, Any] = types.MappingProxyType({})
) -> None:
    """Raises ConfigError for an option that can't be changed after training.

    A trained model is used as it is: these options would have no effect.

    Args:
      given: options by name.
      own: the run's options, where they are known.
    """
    _require_mapping(given)
    kept = {"model", "optimization", "features"}
    fixed = {field.name for group, field in fields() if group in kept} | {"precision"}
    for name, value in given.items():
        if name in fixed:
            kept_value = f", {_text(own[name])}" if name in own else ""
            raise ConfigError(
                f"{name} ({text.one_line(_text(value)):.200}) cannot be changed after training; "
                f"leave it out: a finished run keeps its own{kept_value}."
            )
    if given.get("local_workers"):
        raise ConfigError("a trained model is used on one host; leave out --local_workers.")


def _text(value: Any) -> str:
    """Formats a value for the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _groups() -> Iterator[tuple[Any, tuple[dataclasses.Field[Any], ...]]]:
    """Yields each group's field in Config, with the fields of the group."""
    for group in dataclasses.fields(Config):
        if group.name != "model_dir":
            yield group, dataclasses.fields(group.default_factory)  # type: ignore[arg-type]


def fields() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yields (group name, field) for every option."""
    for group, members in _groups():
        for field in members:
            yield group.name, field
