"""This process and its machine, text and markup that anything may write. No TensorFlow."""
