"""What a search found: results, leaderboard, live board, HTML page and TensorBoard."""
