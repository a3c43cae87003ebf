"""The results of a search: live board, leaderboard, HTML page and TensorBoard logs."""
