"""Runs cells (method x task x model x seed), keeps their records and reports on them."""
