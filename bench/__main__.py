"""``python -m bench key=value ...`` runs one cell; ``-m`` a grid. Hydra composes, records decide.

Exit status: 0 all cells complete, 1 a cell failed or diverged, 2 a mistake in the configuration,
3 another process runs the cell, 75 asked to leave (the same command goes on).
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bench import sweep
from bench.run import interrupts
from bench.sweep import outcomes


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
def app(cfg: DictConfig) -> None:
    """One cell; grids go through bench/sweep."""
    from bench.sweep.single import run  # heavy, after Hydra has refused what it can refuse

    known = HydraConfig.instance().cfg
    assert known is not None
    overrides = [*outcomes.searchpath(known), *known.hydra.overrides.task]
    outcomes.add(run(cfg, outcomes.command_line(overrides)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit status."""
    if arguments is not None:
        sys.argv[1:] = arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if refusal := outcomes.refuse(sys.argv[1:]):
        print(refusal, file=sys.stderr)
        return outcomes.STATUS["refused"]
    sweep.register()
    again = outcomes.command_line(sys.argv[1:])
    try:
        with interrupts.handled():
            app()
    except interrupts.Stopped as stopped:  # before the cell began
        outcomes.add(outcomes.Outcome("the command", "stopped", str(stopped), again))
    except KeyboardInterrupt:
        outcomes.add(outcomes.Outcome("the command", "stopped", "Ctrl-C, twice", again))
    except SystemExit as exit:
        if exit.code:  # Hydra has said what is wrong with the command line
            return outcomes.STATUS["refused"]
    return outcomes.conclude()


if __name__ == "__main__":
    sys.exit(main())
