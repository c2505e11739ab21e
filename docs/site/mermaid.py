"""Mermaid diagrams as SVG images in the pages of the site, so that no script is loaded from the network."""

from hashlib import sha256
from typing import Any

import mermaidx
from pymdownx.superfences import SuperFencesException


def to_svg(source: str, *_: Any, **__: Any) -> str:
    """Return the HTML of a diagram. pymdownx.superfences calls it for each fence `mermaid`.

    Raises:
        SuperFencesException: the diagram has an error. Every other exception would leave it in the page as text.
    """
    try:
        svg: str = mermaidx.render(source).svg()
    except RuntimeError as error:
        raise SuperFencesException(f"{error}\n{source}") from error
    name = f"mermaid-{sha256(source.encode()).hexdigest()[:8]}"  # each diagram of a page needs ids of its own
    return f'<div class="diagram">{svg.replace("my-svg", name)}</div>'
