"""What a person says: job specs, prompt edits, the command line, cluster submission."""
