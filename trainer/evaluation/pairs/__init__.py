"""Two models on the same test examples: what differs, and how surely."""
