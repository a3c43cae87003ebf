"""The process and its machine: console, exit codes, signals, sockets; text."""
