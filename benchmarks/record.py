"""What every program here takes, and where its results go."""

import argparse
from pathlib import Path
from typing import Any

import torch

from jobs.evaluation import record

RESULTS = Path(__file__).parent / "results"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with what every program here takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="pictures a network call")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    return parser


def numbers(text: str) -> list[int]:
    """An argument such as 50,100,200."""
    return [int(number) for number in text.split(",")]


def save(name: str, arguments: argparse.Namespace, **content: Any) -> Path:
    """Write RESULTS/NAME.json: `content` with the hardware, versions, arguments and the default model's weights."""
    file = RESULTS / f"{name}.json"
    record.save(file, vars(arguments), **content)
    return file
