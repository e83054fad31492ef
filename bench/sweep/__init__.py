"""How the cells of a command are run: one after the other, in workers, on SLURM."""

import sys

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

PACKAGE = "hydra_plugins.mora_bench"


def register() -> None:
    """Make this project's sweeper and launchers known to Hydra, before it composes.

    Hydra accepts them from the package hydra_plugins alone, so that their module goes by a name in
    there as well. They take the place of Hydra's own, `basic`.
    """
    known = Plugins.instance()  # first: looking for plugins, Hydra executes its own modules anew
    from bench.sweep import plugins

    sys.modules[PACKAGE] = plugins
    for plugin in (
        plugins.GridSweeper,
        plugins.LocalLauncher,
        plugins.ArrayLauncher,
        plugins.SubmititLauncher,
    ):
        plugin.__module__ = PACKAGE
        known.register(plugin)
    store = ConfigStore.instance().store
    launcher = {"_target_": f"{PACKAGE}.LocalLauncher", "workers": 0}
    store(group="hydra/launcher", name="basic", node=launcher, provider="mora-bench")
    sweeper = {"_target_": f"{PACKAGE}.GridSweeper", "max_batch_size": None, "params": None}
    store(group="hydra/sweeper", name="basic", node=sweeper, provider="mora-bench")
