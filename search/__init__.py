"""What to try next: tasks and their data, quality, the greedy order, the study and the loop that drives it."""
