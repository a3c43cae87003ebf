"""What predictions are worth, as figures, text and pictures. No TensorFlow."""
