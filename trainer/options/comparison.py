"""The options of --mode=compare."""

from __future__ import annotations

import dataclasses

from trainer import backbones, option_groups
from trainer.errors import ConfigError
from trainer.option_groups import option
from trainer.system import hints, text


@dataclasses.dataclass(frozen=True)
class ComparisonOptions(option_groups.Group):
    """What --mode=compare compares: backbones that it trains, or runs that have finished."""

    backbones: str = option(
        "",
        "backbones that --mode=compare trains and compares, separated by commas: "
        "vgg16,mobilenet_v2; into <model_dir>/<backbone>-seed<number>, where the same command "
        "resumes",
        of_result=False,
    )
    seeds: int = option(
        3,
        "how many runs --mode=compare trains of each backbone; --seed is the seed of the first, "
        "and the others have the next ones",
        minimum=1,
        below=1000,
        of_result=False,
    )
    runs: str = option(
        "",
        "directories of finished runs that --mode=compare compares, separated by commas: the first "
        "with each other one; nothing is trained",
        of_result=False,
    )

    def __post_init__(self) -> None:
        """Checks the options, each one and in combination."""
        super().__post_init__()
        if self.backbones and self.runs:
            raise ConfigError(
                f"backbones ({text.one_line(self.backbones):.80}) trains runs, and runs "
                f"({text.one_line(self.runs):.80}) names finished ones: give one of them."
            )
        _require_distinct("backbones", self.backbone_names)
        _require_distinct("runs", self.run_dirs)
        for name in self.backbone_names:
            if name not in backbones.REGISTRY:
                hint = hints.choice("backbones", name, tuple(backbones.REGISTRY))
                raise ConfigError(f"backbones ({text.bare(name):.80}) {hint}")
        if len(self.run_dirs) == 1:
            raise ConfigError(f"runs ({text.one_line(self.runs):.200}) must name two or more runs.")

    @property
    def backbone_names(self) -> tuple[str, ...]:
        """The names in `backbones`."""
        return _split(self.backbones)

    @property
    def run_dirs(self) -> tuple[str, ...]:
        """The directories in `runs`."""
        return _split(self.runs)


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",")) if names.strip() else ()


def _require_distinct(option_name: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not name:
            raise ConfigError(f"{option_name} has an empty name; separate names by one comma.")
        if names.count(name) > 1:
            raise ConfigError(f"{option_name} names {text.one_line(name):.200} twice.")
