"""Records: one JSON file a cell, written once and whole, checked on writing and on reading.

A record is a plain dict (its fields: `FIELDS.md`, made from `fields.py`), its file is
`<folder>/<cell>.json`, and `cell` is a hash of everything that determines the result
(`identity.py`). Nothing in a record is ever executed; a file that is torn, foreign or holds NaN is
named and refused.
"""

from bench.records.fields import SCHEMA_VERSION, STATUSES, Record, blank, check
from bench.records.files import (
    atomic_write,
    complete,
    differences,
    find,
    prepare_folder,
    read,
    same,
    write,
)
from bench.records.frame import load
from bench.records.identity import cell_id

__all__ = [
    "SCHEMA_VERSION",
    "STATUSES",
    "Record",
    "atomic_write",
    "blank",
    "cell_id",
    "check",
    "complete",
    "differences",
    "find",
    "load",
    "prepare_folder",
    "read",
    "same",
    "write",
]
