"""Read objects of web servers in ranges, over HTTP and HTTPS. No redirect is followed.

With a redirect, the server that a job names could choose any other address, also one that only this machine can reach.
obstore follows redirects, and has no option to disable that.
"""

import re
import time
from functools import lru_cache

import requests
from requests.adapters import HTTPAdapter

WAITS = (0.2, 0.6, 1.8, 5.4, 16.2, 30.0)  # seconds before the next try, about a minute in all
AGAIN = (429, 500, 502, 503, 504)
TIMEOUT = (5.0, 60.0)  # seconds to connect, and seconds in which no byte arrives
CONNECTIONS = 64  # kept open per server; a driver indexes 16 shards at a time


class WebError(ValueError):
    """A web server cannot be reached, or its answer cannot be used."""


def fetch(url: str, start: int = 0, end: int = 0) -> tuple[bytes, int, str | None]:
    """Return the bytes [start, end) of an object (fewer at its end), its size in bytes, and its ETag.

    If `end` is 0, no bytes are read. After an error of the server or of the connection the request is tried again, for
    about a minute.

    Raises:
        FileNotFoundError: the server has no such object.
        WebError: the server redirects, does not serve ranges, refuses, or cannot be reached.
    """
    for wait in (*WAITS, None):
        try:
            with _session().request(
                "GET" if end else "HEAD",
                url,
                headers={"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-{end - 1}"} if end else {}),
                timeout=TIMEOUT,
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.status_code not in AGAIN:
                    return _answer(response, start, end)
                problem = f"the server answers {response.status_code} {response.reason}"
        except requests.RequestException as error:
            problem = f"the server cannot be reached or closes the connection ({type(error).__name__})"
        if wait is not None:
            time.sleep(wait)
    raise WebError(f"{problem}; try again later")


def _answer(response: requests.Response, start: int, end: int) -> tuple[bytes, int, str | None]:
    status, headers = response.status_code, response.headers
    etag: str | None = headers.get("ETag")
    if "Location" in headers and 300 <= status < 400:
        target = headers["Location"]
        raise WebError(f"redirects to {target}, and redirects are not followed; give that URL, or download the file")
    if status == 404:
        raise FileNotFoundError
    if not end and status == 200:
        if "Content-Length" not in headers:
            raise WebError("the server does not say how large the file is; download the file")
        return b"", int(headers["Content-Length"]), etag
    if end and status == 200:
        raise WebError("the server sends whole files only, and files are read in ranges; download the file")
    if status == 416:
        raise WebError(f"the range from byte {start} is beyond the end of the file")
    if status != 206:
        raise WebError(f"the server answers {status} {response.reason}")
    sent = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
    if sent is None or int(sent[1]) != start or int(sent[2]) != (last := min(end, int(sent[3])) - 1):
        raise WebError("the server does not send the requested range; download the file")
    data = bytearray()
    for chunk in response.iter_content(1 << 20):
        data += chunk
        if len(data) > last + 1 - start:
            break
    if len(data) != last + 1 - start:
        raise requests.ConnectionError
    return bytes(data), int(sent[3]), etag


@lru_cache(maxsize=1)
def _session() -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=CONNECTIONS, pool_maxsize=CONNECTIONS))
    return session
