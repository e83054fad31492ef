"""``python -m bench key=value ...`` runs one cell; ``-m`` a grid. Hydra composes, records decide.

Exit status: 0 all cells complete, 1 a cell failed or diverged, 2 a mistake in the configuration.
"""

from __future__ import annotations

import logging
import sys
import warnings

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench import outcomes


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
def app(cfg: DictConfig) -> None:
    from bench import cell  # heavy imports come after Hydra has refused what it can refuse
    from bench.errors import UserError
    from methods import MethodError
    from tasks import TaskError

    command = "python -m bench " + " ".join(HydraConfig.get().overrides.task)
    planned = None
    try:
        planned = cell.plan(cfg, command)
        known = cell.done(planned)
        if known is not None:
            outcomes.add(planned.title, known["status"], known["reason"], command, fresh=False)
            return
        record = cell.run_cell(planned)
        outcomes.add(planned.title, record["status"], record["reason"], command)
    except (UserError, MethodError, TaskError, OmegaConfBaseException) as error:
        title = planned.title if planned else "cell"
        outcomes.add(title, "refused", str(error), command)
    except Exception as error:
        if planned is None:
            raise
        record = cell.failed(planned, error)
        outcomes.add(planned.title, "failed", record["reason"], command)
        logging.getLogger("bench").debug("the cell broke down here:", exc_info=True)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning)
    outcomes.refuse_unsweepable(sys.argv[1:])
    app()
    sys.exit(outcomes.conclude())


if __name__ == "__main__":
    main()
