"""Where rows are made: the processor and the versions of the packages, on which a prediction's last bits depend."""

from collections.abc import Mapping, Sequence

from schemas.commit import Commit

Environment = frozenset[tuple[str, str]]
"""The `processor`, and the version of each package, by name."""


def environment(processor: str | None, versions: Mapping[str, str]) -> Environment:
    """The place of these; None is a processor that is not known."""
    return frozenset({**versions, **({"processor": processor} if processor else {})}.items())


def environment_of(commit: Commit) -> Environment:
    """Where a unit was worked on. Commits from before it was written do not tell the processor."""
    return environment(commit.worker.get("processor"), commit.versions)


def differences(places: Sequence[Environment]) -> list[str]:
    """Each place by what is not the same in all of them, such as "on NVIDIA H200 with torch 2.14.0"."""
    common = frozenset.intersection(*places)
    names = {name for environment in places for name, _ in environment - common}
    packages = sorted(names - {"processor"})
    words = []
    for known in map(dict, places):
        on = [f"on {known.get('processor', 'an unrecorded processor')}"] if "processor" in names else []
        versions = ", ".join(f"{name} {known.get(name, 'unrecorded')}" for name in packages)
        words.append(" ".join(on + ([f"with {versions}"] if versions else [])))
    return words
