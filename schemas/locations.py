"""Locations as a person writes them, paths and URLs, and what must not be in one: a secret."""

import re

_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://(\S+)", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """A text whose URLs have lost their users, passwords and queries (where a signed URL has its signature)."""
    return _URL.sub(_without_secrets, text)


def _without_secrets(url: re.Match[str]) -> str:
    scheme, rest = url[1].lower(), url[2]
    if scheme == "file":
        return url[0]
    web = scheme in ("http", "https")
    place, _, query = rest.partition("?")
    if re.match("." if web else r"[\w.~%-]+=", query):  # a key in a bucket may have a question mark
        rest = f"{place}?..."
    authority = re.split("[/?]", rest)[0]
    host = authority.rstrip(":,;.)\"'")  # in a text, punctuation follows
    container = scheme in ("abfs", "abfss") and re.fullmatch("[^@:]+@[^@:]+", host)  # container@account: no user
    if "@" in authority and not container:
        rest = "...@" + rest[authority.rindex("@") + 1 :]
    elif ":" in host and not (web and re.search(r":\d+$", host)):
        # no port: a password that has a slash in it
        rest = "...@" + rest.rpartition("@")[2] if "@" in rest else "..."
    return f"{url[1]}://{rest}"
