"""This process and its machine: console, exits, signals, processes, sockets. No TensorFlow."""
