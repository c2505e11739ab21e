"""The shipped demo data: captioned pictures that the default model never saw, and the ground truth of edits on them."""
