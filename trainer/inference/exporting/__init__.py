"""A trained model in the formats of other runtimes, each one checked where it will run.

from trainer.inference.exporting import exports
table = exports.export(model, facts, images, labels, ("onnx", "litert"), folder)
print(table.to_text()); table.failed
"""
