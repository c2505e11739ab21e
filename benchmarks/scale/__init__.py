"""Cost of large jobs: the driver's scheduling, the store of a million units, and memory over a long run."""
