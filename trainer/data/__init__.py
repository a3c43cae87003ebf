"""From a built data set to batches."""
