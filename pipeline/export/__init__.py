"""Export a finished store to the formats of other programs."""
