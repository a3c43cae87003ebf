"""The classifier: preprocessing, backbone, head, weights and precision."""
