"""Options of what a trained model is used for: files to predict, heat maps, exports."""

from __future__ import annotations

import dataclasses

from trainer import option_groups
from trainer.errors import ConfigError
from trainer.option_groups import option
from trainer.system import hints, text

EXPORT_FORMATS = ("savedmodel", "litert", "litert_int8", "onnx")


@dataclasses.dataclass(frozen=True)
class InferenceOptions(option_groups.Group):
    """What a trained model is used for."""

    images: str = option(
        "",
        "files, folders, globs, zips or CSV lists with a column `file`, separated by commas; for "
        "--mode=evaluate a CSV list with columns `file` and `label`, or a folder with a folder for "
        "each class; for --mode=export, images to check with in place of validation",
        of_result=False,
    )
    output_dir: str = option(
        "",
        "local folder for what --mode=predict, explain or export writes; it holds what is done, "
        "and the same command resumes; empty: `predictions` or `export` in the run directory",
        of_result=False,
    )
    heatmap: str = option(
        "gradcam",
        "how --mode=explain computes heat maps; gradcam: Grad-CAM (Selvaraju et al. 2017); "
        "hirescam: HiResCAM (Draelos and Carin 2020)",
        choices=("gradcam", "hirescam"),
        of_result=False,
    )
    save_maps: bool = option(
        False,
        "whether --mode=explain also saves the numbers of each heat map as .npy, [h, w] float16, "
        "not stretched to the image",
        of_result=False,
    )
    format: str = option(
        "savedmodel",
        "formats that --mode=export writes, separated by commas: savedmodel, litert, litert_int8, "
        "onnx",
        of_result=False,
    )

    def __post_init__(self) -> None:
        """Checks the formats."""
        super().__post_init__()
        for name in self.formats:
            if name not in EXPORT_FORMATS:
                hint = hints.choice("format", name, EXPORT_FORMATS)
                raise ConfigError(f"format ({text.bare(name):.80}) {hint}")
            if self.formats.count(name) > 1:
                raise ConfigError(f"format names {name} twice.")

    @property
    def formats(self) -> tuple[str, ...]:
        """The names in `format`."""
        return tuple(name.strip() for name in self.format.split(","))
