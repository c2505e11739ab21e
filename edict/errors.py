"""The error for a model that cannot be used."""


class ModelError(ValueError):
    """A model cannot be found, is damaged, or is not supported."""
