"""Finds the layers of a model in a file of weights, whatever saved it.

Keras has two layouts of HDF5 files, and people save backbones, classifiers with the backbone inside
as a layer, and classifiers whose layers are those of the backbone. What counts here are the layers'
names and the shapes of their weights; nothing is built from the file.

    layers = stored.read(file)                        # an h5py.File
    found = stored.match(backbone, layers)            # its weights in order, or None
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from trainer.models import archive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import h5py


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with weights in a file.

    Attributes:
      model: the path of the model in the file that it is a layer of.
      name: its name, or where the file has none, its class and number.
      key: its class and number, such as `conv2d_3`.
      arrays: its weights, still on disk.
    """

    model: str
    name: str
    key: str
    arrays: tuple[h5py.Dataset, ...]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of its weights."""
        return [tuple(array.shape) for array in self.arrays]


Models = dict[str, list[Layer]]
"""The layers of each model in a file, by the path of the model."""


def read(file: h5py.File) -> Models:
    """Returns the layers in a file, in the file's order."""
    legacy = file.get("model_weights", file)
    layers = _read_legacy(legacy) if "layer_names" in legacy.attrs else _read_current(file)
    models: Models = {}
    for layer in layers:
        models.setdefault(layer.model, []).append(layer)
    return models


def _read_current(file: h5py.File) -> Iterator[Layer]:
    """Yields the layers of Keras 3: `…/layers/conv2d_3/vars/0`, and their names as attributes."""
    arrays = ((path.rpartition("/vars/"), array) for path, array in archive.datasets(file))
    for path, group in itertools.groupby(arrays, lambda item: item[0][0]):
        model, _, key = path.rpartition("/")
        numbered = sorted(group, key=lambda item: _natural(item[0][2]))
        if model.endswith("layers") and key:
            name = _text(file[f"{path}/vars"].attrs.get("name", key))
            yield Layer(model, name, key, tuple(array for _, array in numbered))


def _read_legacy(group: h5py.Group) -> Iterator[Layer]:
    """Yields the layers of `model.save("x.h5")` and of the files of keras.applications."""
    for outer in map(_text, group.attrs["layer_names"]):
        inner: dict[str, list[h5py.Dataset]] = {}
        for weight in map(_text, group[outer].attrs.get("weight_names", ())):
            parts = weight.split("/")
            inner.setdefault(parts[-2] if len(parts) > 1 else outer, []).append(
                group[outer][weight]
            )
        if len(inner) == 1:
            yield Layer("", outer, outer, tuple(*inner.values()))
        else:  # A model inside the model.
            for name, arrays in inner.items():
                yield Layer(outer, name, name, tuple(arrays))


def match(model: keras.Model, models: Models) -> list[Layer] | None:
    """Returns the file's layer for each layer of a model that has weights; None if it has others.

    A larger model may contain all layers of a smaller one (VGG19 those of VGG16), and is not it.
    """
    own = weighted_layers(model)
    for root in models:
        layers = [x for path, inner in models.items() if path.startswith(root) for x in inner]
        for found in (_by_name(own, layers), _by_class(own, layers)):
            fits = len(found) == len(own) and all(map(_has_shapes, own, found))
            if fits and not _convolutions_beside(found, layers):
                return found
    return None


def weighted_layers(model: keras.Model) -> list[Any]:
    """Returns the layers of a model that have weights, also those of models inside it."""
    layers = model._flatten_layers(include_self=False)  # noqa: SLF001 -- There is no public one.
    return [layer for layer in layers if layer.weights and not isinstance(layer, keras.Model)]


def values(model: keras.Model, layers: Sequence[Layer]) -> list[np.ndarray]:
    """Reads the weights of a model's layers, in the order of `model.set_weights`.

    Raises:
      ValueError: when one is not finite, or not a number.
    """
    place: dict[int, tuple[Layer, int]] = {}
    for ours, theirs in zip(weighted_layers(model), layers, strict=True):
        place |= {id(weight): (theirs, i) for i, weight in enumerate(ours.weights)}
    return [value_of(*place[id(weight)]) for weight in model.weights]


def value_of(layer: Layer, index: int) -> np.ndarray:
    """Reads one weight of a layer.

    Raises:
      ValueError: when it is not finite, or not a number.
    """
    value = np.asarray(layer.arrays[index])
    if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise ValueError(f"the weights of its layer {layer.name!r} are not finite numbers")
    return value


def difference(model: keras.Model, models: Models) -> str:
    """Returns the first layer that a file has otherwise than a model, as a clause; empty if none.

    A file that has fewer than half of the layers' names is of another model.
    """
    own = weighted_layers(model)
    layers = [layer for inner in models.values() for layer in inner]
    names = {layer.name: layer for layer in layers}
    if sum(layer.name in names for layer in own) * 2 < len(own):
        return ""
    for layer in own:
        if layer.name not in names:
            return f"its layer {layer.name!r} is missing"
        if not _has_shapes(layer, names[layer.name]):
            theirs, ours = (
                ", ".join(map(str, shapes))
                for shapes in (names[layer.name].shapes, [tuple(w.shape) for w in layer.weights])
            )
            return f"its layer {layer.name!r} has weights of {theirs}, not {ours}"
    others = _convolutions_beside([names[layer.name] for layer in own], layers)
    return f"it also has a layer {others[0].name!r}" if others else ""


def _convolutions_beside(found: Sequence[Layer], layers: Sequence[Layer]) -> list[Layer]:
    taken = {id(layer) for layer in found}
    return [
        layer
        for layer in layers
        if id(layer) not in taken and any(len(shape) > 2 for shape in layer.shapes)
    ]


def _by_name(own: Sequence[Any], layers: Sequence[Layer]) -> list[Layer]:
    """Finds layers by name; those that Keras named by their class, by their rank in the class."""
    names = {layer.name: layer for layer in layers}
    ranked = _ranked({layer.name: layer for layer in layers})
    own_ranks = _ranks([layer.name for layer in own])
    found = []
    for layer in own:
        class_name, rank = own_ranks[layer.name]
        same = ranked.get(class_name, []) if class_name == _class_of(layer) else []
        theirs = same[rank] if rank < len(same) else names.get(layer.name)
        if theirs is None:
            return []
        found.append(theirs)
    return found


def _by_class(own: Sequence[Any], layers: Sequence[Layer]) -> list[Layer]:
    """Finds layers by rank in their class: older files of Keras 3 have no names."""
    ranked = _ranked({layer.key: layer for layer in layers})
    counts: dict[str, int] = {}
    found = []
    for layer in own:
        class_name = _class_of(layer)
        rank = counts.get(class_name, 0)
        counts[class_name] = rank + 1
        if rank >= len(ranked.get(class_name, [])):
            return []
        found.append(ranked[class_name][rank])
    return found


def _has_shapes(ours: Any, theirs: Layer) -> bool:
    shapes = [tuple(weight.shape) for weight in ours.weights]
    # Keras 2 also counted the images that a Normalization layer had seen.
    return theirs.shapes in (shapes, [*shapes, ()])


def _ranked(layers: Mapping[str, Layer]) -> dict[str, list[Layer]]:
    """Returns the layers by class, in the order in which Keras numbered them."""
    ranked: dict[str, list[Layer]] = {}
    for name in sorted(layers, key=_natural):
        ranked.setdefault(_class_and_number(name)[0], []).append(layers[name])
    return ranked


def _ranks(names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Returns the class and the rank in it that each name tells."""
    counts: dict[str, int] = {}
    ranks = {}
    for name in sorted(names, key=_natural):
        class_name = _class_and_number(name)[0]
        ranks[name] = (class_name, counts.get(class_name, 0))
        counts[class_name] = counts.get(class_name, 0) + 1
    return ranks


def _class_and_number(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.+?)(?:_(\d{1,9}))?", name, re.DOTALL)
    return (found[1], int(found[2] or 0)) if found else (name, 0)


def _natural(name: str) -> tuple[str, int]:
    """Sorts `conv2d_10` after `conv2d_9`, and "10" after "9"."""
    return ("", int(name)) if name.isdecimal() and len(name) < 10 else _class_and_number(name)


def _class_of(layer: Any) -> str:
    """Returns the name that Keras gives the first layer of a class, such as `conv2d`."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
