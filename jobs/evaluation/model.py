"""The default model, loaded for a measurement."""

from transformers.utils import logging

from edict import EDICT


def load_default_model() -> EDICT:
    """Return the shipped model. Neither loading nor sampling shows a progress bar."""
    logging.disable_progress_bar()
    model = EDICT.from_pretrained()
    model.set_progress_bar_config(disable=True)
    return model
