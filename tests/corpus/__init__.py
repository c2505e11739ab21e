"""The corpus: bad and hostile inputs, built as real bytes, each with the result that the project guarantees.

Each module has one kind of input: samples, whole shards, specs, damaged stores, and checkpoints.
`tests/pipeline/test_corpus.py` and `tests/pipeline/test_checkpoints.py` check every result.
`python -m tests.corpus > docs/inputs.md` writes the page of the documentation.
"""
