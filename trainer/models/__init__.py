"""The classifier: backbone, preprocessing, head, weights and precision."""
