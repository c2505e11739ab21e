"""Bad and hostile inputs, built as real bytes, and what each is promised to get: the corpus.

Five kinds, each a module: samples and whole shards that one real job takes in, shards that cannot be used, specs, and
stores that came to harm. `tests/pipeline/test_corpus.py` holds each to its promise; `python -m tests.corpus` writes
the table of docs/inputs.md.
"""
