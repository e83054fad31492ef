"""What the records say: rows and settings, learning rates, measures, intervals, verdicts."""
