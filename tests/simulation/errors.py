"""The exceptions of the simulation."""


class Stalled(RuntimeError):
    """Nothing is left that could happen."""
