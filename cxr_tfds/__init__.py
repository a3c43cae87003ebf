"""Chest X-ray pneumonia for TensorFlow Datasets; importing the package registers the builder.

    import cxr_tfds
    import tensorflow_datasets as tfds
    train = tfds.load("cxr_tfds/grouped", split="train")

The import is eager, as TFDS registers a class when it is defined: it works in either order of the
two imports. It costs 0.4 s and no TensorFlow, which `tensorflow_datasets` loads on first use
(lazily), so `cxr_tfds.source` and its siblings stay free of TensorFlow too.
"""

import sys

_OLDEST = (3, 11)

# `name` makes `python -m cxr_tfds.audit` end with this one line, where runpy finds no module.
if sys.version_info < _OLDEST:
    _versions = (".".join(map(str, version[:2])) for version in (_OLDEST, sys.version_info))
    raise ImportError(
        "cxr_tfds needs Python {} or newer, not {}; activate this project's environment".format(
            *_versions
        ),
        name=__name__,
    )
try:
    from cxr_tfds.cxr_tfds_dataset_builder import Builder
except ModuleNotFoundError as _error:
    if (_error.name or "").startswith(__name__):
        raise
    raise ImportError(
        f"{sys.executable} has no package {_error.name}; activate this project's environment, or "
        "install it there with pip",
        name=__name__,
    ) from _error

__all__ = ["Builder"]
