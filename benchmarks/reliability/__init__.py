"""What kills, torn writes and damaged inputs do to runs."""
