"""Classifies image files with an exported model; needs numpy, onnxruntime and pillow, nothing else.

Files are of 8 bits: others, and DICOM, are for `python -m trainer --mode=predict`.

python docs/run_onnx.py runs/a/export/model.onnx inbox/*.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Of 8 bits. Pillow would clip 16 bits to white, and the model would be sure of a wrong answer."""


def read(file: str, record_side: int | None) -> np.ndarray:
    """Returns a file of 8 bits, upright, as [H, W] grey levels 0 to 255.

    The model stretches images of any size. Where training has stretched them to the size of its
    records first, that is done here.
    """
    image = Image.open(file)
    if image.mode not in MODES:
        sys.exit(f"{file}: mode {image.mode} is not of 8 bits; --mode=predict reads such files.")
    grey = ImageOps.exif_transpose(image).convert("L")
    if record_side:
        grey = grey.resize((record_side, record_side), Image.Resampling.BILINEAR)
    return np.asarray(grey, np.float32)


def main(model: str, *files: str) -> None:
    """Prints the class and the probabilities of each file."""
    session = onnxruntime.InferenceSession(model)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["model.json"])
    names, threshold = facts["class_names"], facts["threshold"]
    record_side = facts.get("pixels", {}).get("record_side")
    for file in files:
        images = read(file, record_side)[None, :, :, None]
        (probabilities,) = session.run(["probabilities"], {"images": images})
        index = int(probabilities[0].argmax())
        if threshold is not None:
            index = int(probabilities[0, 1] >= threshold)
        pairs = zip(names, probabilities[0], strict=True)
        shares = ", ".join(f"{name} {share:.4f}" for name, share in pairs)
        print(f"{file}: {names[index]} ({shares})")


if __name__ == "__main__":
    main(*sys.argv[1:])
