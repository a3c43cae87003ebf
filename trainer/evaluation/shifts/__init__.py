"""Whether the splits of a data set are alike, so that one can stand for another."""
