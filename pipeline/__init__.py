"""The dataflow: shards in, units of work, Ray actors, parts and commits out."""
