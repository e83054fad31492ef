"""The one exception that a task raises for something its user can put right."""


class TaskError(ValueError):
    """Bad task setting, or data that are missing or broken: says what, where and what to do."""
