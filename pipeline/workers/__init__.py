"""The Ray actors that invert and edit units."""
