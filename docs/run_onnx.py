"""Classifies image files with an exported model; needs numpy, onnxruntime and pillow, nothing else.

python docs/run_onnx.py runs/a/export/model.onnx inbox/*.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def main(model: str, *files: str) -> None:
    """Prints the class and the probabilities of each file."""
    session = onnxruntime.InferenceSession(model)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["model.json"])
    names, threshold = facts["class_names"], facts["threshold"]
    for file in files:
        image = np.asarray(Image.open(file).convert("L"), np.float32)
        (probabilities,) = session.run(["probabilities"], {"images": image[None, :, :, None]})
        index = int(probabilities[0].argmax())
        if threshold is not None:
            index = int(probabilities[0, 1] >= threshold)
        pairs = zip(names, probabilities[0], strict=True)
        shares = ", ".join(f"{name} {share:.4f}" for name, share in pairs)
        print(f"{file}: {names[index]} ({shares})")


if __name__ == "__main__":
    main(*sys.argv[1:])
