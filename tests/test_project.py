"""Files of the project that state the same fact agree: dependencies, versions of Python, commands of CI."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))


def test_the_constraints_pin_every_package_that_is_installed() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    extras = PROJECT["optional-dependencies"]
    for requirement in map(Requirement, (text for texts in extras.values() for text in texts)):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement

    # `make venv` installs the dependencies and the extra dev, with all that these need.
    pending = [*map(Requirement, PROJECT["dependencies"]), *map(Requirement, extras["dev"])]
    visited: set[tuple[str, str]] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        assert name in pins, f"constraints.txt has no version of {name}"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement}, pinned at {pins[name]}"
        for extra in {"", *requirement.extras} - {extra for visited_name, extra in visited if visited_name == name}:
            visited.add((name, extra))
            needed = map(Requirement, requires(name) or [])
            pending += [one for one in needed if not one.marker or one.marker.evaluate({"extra": extra})]


def test_ci_runs_the_same_command_as_the_workflow() -> None:
    (job,) = WORKFLOW["jobs"].values()
    (command,) = (step["run"] for step in job["steps"] if "run" in step)
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == command == "make test"


def test_the_workflow_runs_every_version_of_python_that_the_project_names() -> None:
    (job,) = WORKFLOW["jobs"].values()
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text) for text in PROJECT["classifiers"]]
    assert job["strategy"]["matrix"]["python"] == [match[1] for match in named if match]
