"""Where a data set comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Where one data set comes from and what its rows must hold.

    files: split -> file name in the local folder; compressed, it ends in `.zst` besides.
    other_files: split -> another name, looked for where that file is not there.
    splits: split -> split name on the hub, where it differs.
    columns: what a row must hold; `texts`, those of them that must not be empty.
    repeats: split -> how many rows of the published set repeat an earlier one (None: any number).
    """

    name: str
    licence: str
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    files: Mapping[str, str]
    hub_id: str | None = None
    config: str | tuple[str, ...] | None = None  # several are joined in their order
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    data_files: Mapping[str, list[str]] | None = None  # split -> hub files, of a huge set's part
    repeats: Mapping[str, int | None] = field(default_factory=dict)
    other_files: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    instead: str = ""  # what to run where the set can't be had

    def path(self, split: str, data_dir: str | Path | None) -> Path | None:
        """The local file of a split, if it is there."""
        if data_dir is None or split not in self.files:
            return None
        names = [m[split] for m in (self.files, self.other_files) if split in m]
        found = (self.place(f"{n}{end}", data_dir) for n in names for end in ("", ".zst"))
        return next((file for file in found if file.is_file()), None)

    def place(self, file: str, data_dir: str | Path) -> Path:
        """Where a local file of the set belongs."""
        return Path(data_dir).expanduser() / self.name / file

    def on_hub(self) -> str:
        """How a person would name the set on the hub."""
        if self.hub_id is None:
            return "none"
        if self.config is None:
            return self.hub_id
        config = self.config if isinstance(self.config, str) else " + ".join(self.config)
        return f"{self.hub_id}, config {config}"
