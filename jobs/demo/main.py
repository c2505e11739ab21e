"""The embedded default, end to end: specs are written, run, verified, and the results pointed out."""

import time
from pathlib import Path

from jobs.run import run_spec
from jobs.spec import load
from pipeline.verify import run_verify

SHARD = Path(__file__).parent / "shards" / "demo-00000.tar"

INVERT = """\
# Every picture of the shard, inverted to its exact noise pair: `edict run {output}/invert.yaml`
kind: invert
input: {shard}
output: {output}/latents
model: {{path: default, dtype: float32}}
sampler: {{steps: 50, guidance_scale: 3.0}}
workers: {{count: 2, batch_size: 16}}
"""

EDIT = """\
# Prompt edits over those pairs, in bulk: `edict run {output}/edit.yaml`
kind: edit
latents: {output}/latents
output: {output}/edits
edits:
  - name: style
    replace: {{noto: fluent, twemoji: fluent, fluent: noto}}
  - name: blue
    replace: {{red background: blue background, white background: blue background, grey background: blue background}}
workers: {{count: 2}}
contact_sheet: 8
"""


def main(output: Path) -> bool:
    """Run the demo into a folder; whether everything is complete and exact."""
    began = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    for name, text in (("invert", INVERT), ("edit", EDIT)):
        (output / f"{name}.yaml").write_text(text.format(shard=SHARD, output=output))
    invert, edit = load(output / "invert.yaml"), load(output / "edit.yaml")
    print(f"1. invert the pictures of {SHARD.name}: {output}/invert.yaml")
    inverted = run_spec(invert)
    print("2. verify: regenerate every pair and compare each integer")
    verified = run_verify(invert.output, rows=None, count=invert.workers.count, gpus=0)
    for problem in verified.problems:
        print(f"problem: {problem}")
    print(f"   {verified.exact} of {verified.rows} pairs regenerate their image latent to the bit")
    print(f"3. edit in bulk: {output}/edit.yaml")
    edited = run_spec(edit)
    for failure in inverted.failures + edited.failures:
        print(f"failed: {failure}")
    print(
        f"\n{inverted.status.ok} pictures inverted, {edited.status.ok} edited in {time.monotonic() - began:.0f} s\n"
        f"  {output}/edits/contact_sheet.png\n"
        f"  {output}/edits/report.html\n"
        f"  {output}/latents/parts/*.parquet\n"
        "and change the specs, or give them your own shards."
    )
    exact = verified.exact == verified.rows == inverted.status.ok and not verified.problems
    return inverted.status.complete and edited.status.complete and exact
