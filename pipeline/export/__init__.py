"""Export a finished store for other programs."""
