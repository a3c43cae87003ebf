"""Files as people have them: odd, broken, and no radiographs at all."""
