"""Locations as a person writes them, paths and URLs, and the secrets that must not be shown."""

import re

_SCHEME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"
_PARAMETER = re.compile(r"([?&])([\w.-]{1,100})=([^\s&\"'<>]+)")
_SECRET = re.compile("sig|token|secret|password|key|credential", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Return a text without the users, passwords and queries of its URLs, and without the values of signed queries.

    A signed URL has its signature in the query. The time is linear in the length of the text.
    """
    if "://" in text:
        before, *after = text.split("://")
        schemes = [part[len(part.rstrip(_SCHEME)) :] for part in (before, *after)]
        text = "://".join([before, *map(_without_secrets, schemes, after)])
    return _PARAMETER.sub(lambda found: f"{found[1]}{found[2]}=..." if _SECRET.search(found[2]) else found[0], text)


def _without_secrets(scheme: str, text: str) -> str:
    """Return a text without secrets. The text begins with the part of a URL after its scheme and ://."""
    scheme = scheme.lower()
    if scheme == "file":
        return text
    rest = text.split(maxsplit=1)[0] if text[:1].strip() else ""
    end = len(rest)
    web = scheme in ("http", "https")
    place, _, query = rest.partition("?")
    if re.match("." if web else r"[\w.~%-]+=", query):  # a key in a bucket may have a question mark
        rest = f"{place}?..."
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    host = authority.rstrip(":,;.)\"'")  # in a text, punctuation can follow the URL
    container = scheme in ("abfs", "abfss") and re.fullmatch("[^@:]+@[^@:]+", host)  # container@account: no user
    if "@" in authority and not container:
        rest = "...@" + rest[authority.rindex("@") + 1 :]
    elif ":" in host and not (web and re.search(r":\d+$", host)):
        # not a port, so it is the beginning of a password with a slash
        rest = "...@" + rest.rpartition("@")[2] if "@" in rest else "..."
    return rest + text[end:]
