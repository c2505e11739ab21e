"""The user interface: job specs, prompt edits, the command line, submission to a cluster, and evaluation."""
