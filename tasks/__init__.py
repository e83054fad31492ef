"""Data sets and scorers behind one interface (`tasks.base.Task`).

One file a task. Nothing here imports `bench` or `methods`; everything scores any Hugging Face
causal language model in memory. Heavy libraries (datasets, lm_eval) are imported where they are
used, so that `import tasks` stays cheap.
"""

from tasks.base import Metric, Scorer, Task
from tasks.errors import TaskError

__all__ = ["Metric", "Scorer", "Task", "TaskError"]
