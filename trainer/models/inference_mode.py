"""Layers that act otherwise in training than in inference: batch norm and dropout of a backbone.

A pretrained backbone stays in inference mode while it is fine-tuned, as Keras's guide advises. One
with random weights trains like any other network.

    inference_mode.keep(backbone)                    # pretrained
    inference_mode.leave(backbone)                   # random weights, all of which train
"""

from __future__ import annotations

import keras

from trainer.models import dropout

MOMENTUM = 0.9
"""Of batch norm that trains from random weights. keras.applications have 0.99 to 0.999, for the
millions of steps of ImageNet: after the few hundred of a run here, the moving statistics would
still be their initial values, and the model would fail in inference."""


def leave(backbone: keras.Model) -> None:
    """Lets batch norm and dropout train, in a backbone that has never seen an image.

    Batch norm's initial statistics (mean 0, variance 1) are those of no layer's inputs: frozen,
    they leave a deep network without a signal. Batches are normalised over all replicas, so that
    the statistics are those of the global batch, and the same on each replica.
    """
    for layer in batch_norm_layers(backbone):
        layer.trainable, layer.synchronized, layer.momentum = True, True, MOMENTUM
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.Dropout):
            dropout.by_replica(layer)


def keep(backbone: keras.Model) -> None:
    """Switches off the dropout inside a pretrained backbone (EfficientNetV2's stochastic depth).

    Only so do frozen layers have the same outputs in every epoch. Calling the backbone with
    `training=False`, as Keras's guide does, is not enough: in Keras 3.15 the `training=True` of the
    whole model's training step overrides it.
    """
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0


def batch_norm_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the batch norm layers of a model and of the models in it."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += batch_norm_layers(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            found.append(layer)
    return found


def moving_statistics(model: keras.Model) -> list[keras.Variable]:
    """Returns the statistics that a training step changes: those of batch norm that trains."""
    layers = [layer for layer in batch_norm_layers(model) if layer.trainable]
    return [statistic for x in layers for statistic in (x.moving_mean, x.moving_variance)]


def frozen_weights(model: keras.Model) -> list[keras.Variable]:
    """Returns the weights that training leaves as they are."""
    changing = {id(statistic) for statistic in moving_statistics(model)}
    return [weight for weight in model.non_trainable_weights if id(weight) not in changing]
