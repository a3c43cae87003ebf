"""What TPU's compiler says of a training step, without a TPU."""
