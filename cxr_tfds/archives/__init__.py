"""A zip or folder as people have it: which one is read, its files, and what its folders mean."""
