"""How the default model was made, from the pictures to the shipped folder: `python -m training --help`."""
