"""The one exception of this package: a mistake in a method's settings, worded for users."""


class MethodError(ValueError):
    """What is wrong, where, and what to do about it; raised before anything is changed."""
