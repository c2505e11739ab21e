"""Prompt-to-prompt (Hertz et al., 2208.01626): edits that keep the attention maps of the image that they change.

The base of a row is its image, regenerated under its own caption. A base and its edits share a batch. In the first
steps, an edit uses the attention of its base. Control does not change a base: its rows take the same path through the
same kernels as without control, so it regenerates exactly.

Bases and edits can be in any slots of a batch, so the bits of a row must not depend on its slot. UNets have this
property on one CPU thread (`python -m tests.campaigns.slots`).
"""

from edict.control.settings import Blend, Control, ineffective_reason, matches_earlier_versions
from edict.control.words import WordNotFound, check_words

__all__ = ["Blend", "Control", "WordNotFound", "check_words", "ineffective_reason", "matches_earlier_versions"]
