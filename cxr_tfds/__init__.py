"""Chest X-ray pneumonia for TensorFlow Datasets; importing the package registers the builder.

    import cxr_tfds
    import tensorflow_datasets as tfds
    train = tfds.load("cxr_tfds/grouped", split="train")

The import is eager, as TFDS registers a class when it is defined: it works in either order of the
two imports. It costs 0.4 s and no TensorFlow, which `tensorflow_datasets` loads on first use
(lazily), so `cxr_tfds.source` and its siblings stay free of TensorFlow too.
"""

from cxr_tfds.cxr_tfds_dataset_builder import Builder

__all__ = ["Builder"]
