"""What is written while a run trains: its history, its progress, its page."""
