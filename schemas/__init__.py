"""The formats of all files: specs, job.json, fingerprints, Parquet schemas and commits. It imports no other package."""
