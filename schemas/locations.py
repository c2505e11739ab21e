"""Remove secrets from paths, URLs and messages before they are shown or stored."""

import re

_SCHEME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"
_PARAMETER = re.compile(r"([?&])([\w.-]{1,100})=([^\s&\"'<>]+)")
_SECRET = re.compile("sig|token|secret|password|key|credential", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Return a text without the secrets in its URLs: users, passwords, queries, and the values of signed queries.

    The query of a signed URL contains its signature. The time is linear in the length of the text.
    """
    if "://" in text:
        before, *after = text.split("://")
        schemes = [part[len(part.rstrip(_SCHEME)) :] for part in (before, *after)]
        text = "://".join([before, *map(_without_secrets, schemes, after)])
    return _PARAMETER.sub(lambda found: f"{found[1]}{found[2]}=..." if _SECRET.search(found[2]) else found[0], text)


def _without_secrets(scheme: str, text: str) -> str:
    """Return a text without secrets, which begins with the part of a URL after its scheme and ://."""
    scheme = scheme.lower()
    if scheme == "file":
        return text
    rest = text.split(maxsplit=1)[0] if text[:1].strip() else ""
    end = len(rest)
    web = scheme in ("http", "https")
    path, _, query = rest.partition("?")
    if re.match("." if web else r"[\w.~%-]+=", query):  # a key in a bucket may have a question mark
        rest = f"{path}?..."
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    host = authority.rstrip(":,;.)\"'")  # in a text, punctuation can follow the URL
    container = scheme in ("abfs", "abfss") and re.fullmatch("[^@:]+@[^@:]+", host)  # container@account: no user
    if "@" in authority and not container:
        rest = "...@" + rest[authority.rindex("@") + 1 :]
    elif ":" in host and not (web and re.search(r":\d+$", host)):
        # The colon does not begin a port, so it begins a password, in which there is a slash.
        rest = "...@" + rest.rpartition("@")[2] if "@" in rest else "..."
    return rest + text[end:]
