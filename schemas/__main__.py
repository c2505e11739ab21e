"""Write the JSON Schemas of the specs to this folder: `python -m schemas`."""

import json
from pathlib import Path

from schemas.specs import KINDS, json_schema

for kind in KINDS:
    path = Path(__file__).with_name(f"{kind}.schema.json")
    path.write_text(json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
