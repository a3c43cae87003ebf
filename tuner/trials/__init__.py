"""Running trials: in this process, in a process each, or on several workers."""
