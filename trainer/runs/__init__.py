"""Run directories, and the finished runs and evaluations in them."""
