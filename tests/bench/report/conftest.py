"""The hand-made studies of tests/bench/studies.py, as fixtures."""

from tests.bench.studies import make, make_study, no_figures, study

__all__ = ["make", "make_study", "no_figures", "study"]
