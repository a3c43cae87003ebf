"""Opens a built data set and turns its splits into batches."""
