"""A trained cell's model, kept as a folder that ``model=hub model.source=FOLDER`` reads again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.run import folders, hub, wheel
from bench.run.device import dtype as dtype_of


def save(model: Any, tokenizer: Any, folder: Path, dtype: str) -> dict[str, Any]:
    """Write a plain (merged) model and its tokenizer; the record's field `saved_model`.

    dtype: fp32 | bf16, of the stored weights; ``model`` is left in it. The folder is replaced
    whole. Returns its name below the results folder, the weights' checksum as a model's card has
    it ("sha256:..."), and dtype. Raises UserError where the folder cannot be written.
    """
    model = model.to(dtype_of(dtype))
    try:
        with folders.replacing(folder) as draft, wheel.no_bars():
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
    except OSError as error:
        raise UserError(f"the model cannot be written in {folder}: {error}") from error
    return {
        "folder": f"{folder.parent.name}/{folder.name}",
        "checksum": hub.checksum(folder, however_long=True),
        "dtype": dtype,
    }
