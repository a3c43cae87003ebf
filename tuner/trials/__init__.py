"""Running trials: one after the other, in a process of their own, or on several workers."""
