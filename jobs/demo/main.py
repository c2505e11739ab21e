"""The demo: write two specs, run them, verify the result, and print where the results are."""

import time
from pathlib import Path

from jobs.launch import run_spec
from jobs.spec_file import load
from jobs.terminal import edit_counts
from pipeline.execute.cluster import connected
from pipeline.messages import machine_for
from pipeline.verify import run_verify

SHARD = Path(__file__).parent / "shards" / "demo-00000.tar"

INVERT = """\
# Invert every image of the shard to its exact noise pair: edict run {output}/invert.yaml
kind: invert
input: {shard}
output: {output}/latents
model: {{path: default, dtype: float32}}
sampler: {{steps: 50, guidance_scale: 1.0}}
workers: {{count: 2, batch_size: 16}}
"""

EDIT = """\
# Edit all of these pairs by changes of their captions: edict run {output}/edit.yaml
kind: edit
latents: {output}/latents
output: {output}/edits
edits:
  - name: background
    replace:
      white background: blue background
      black background: blue background
      grey background: blue background
      red background: blue background
      orange background: blue background
      yellow background: green background
      green background: yellow background
      blue background: white background
      purple background: white background
  - name: tone
    replace:
      light skin tone: dark skin tone
      medium-light skin tone: dark skin tone
      medium skin tone: dark skin tone
      medium-dark skin tone: light skin tone
      dark skin tone: light skin tone
  - name: person
    replace: {{man: woman, woman: man}}
workers: {{count: 2}}
contact_sheet: 8
"""


def write_specs(output: Path) -> tuple[Path, Path]:
    """Write the two specs of the demo into a folder, which is made if needed. Return their paths."""
    output.mkdir(parents=True, exist_ok=True)
    files = output / "invert.yaml", output / "edit.yaml"
    for file, text in zip(files, (INVERT, EDIT), strict=True):
        file.write_text(text.format(shard=SHARD, output=output))
    return files


def run_demo(output: Path) -> bool:
    """Run the demo into a folder. Return whether everything is complete and exact."""
    began = time.monotonic()
    invert_file, edit_file = write_specs(output)
    invert, edit = load(invert_file), load(edit_file)
    count = invert.workers.count
    with connected(count, machine_for(0)):  # All three steps use this Ray.
        print(f"1. invert the images of {SHARD.name}: {invert_file}")
        inverted = run_spec(invert)
        print("2. verify: regenerate every image latent and compare each integer")
        verified = run_verify(invert.output, rows=None, count=count, gpus=0)
        for problem in verified.problems:
            print(f"problem: {problem}")
        print(f"   {verified.exact} of {verified.rows} pairs regenerate their image latent exactly")
        print(f"3. edit in bulk: {edit_file}")
        edited = run_spec(edit)
    for failure in inverted.failures + edited.failures:
        print(f"failed: {failure}")
    print(
        f"\n{inverted.status.ok} images inverted and edited in {time.monotonic() - began:.0f} s\n"
        f"  {output}/edits/contact_sheet.png\n"
        f"  {output}/edits/report.html\n"
        f"  {output}/latents/parts/*.parquet\n"
        f"next: change the edits and the output in {edit_file}, or set your own shards in {invert_file}\n"
        f"{edit_counts(edited.status)}"
    )
    exact = verified.exact == verified.rows == inverted.status.ok and not verified.problems
    return inverted.status.complete and edited.status.complete and exact
