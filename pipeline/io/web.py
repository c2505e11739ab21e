"""Read files of web servers in ranges, over HTTP and HTTPS. Redirects are not followed.

By a redirect, a server could send requests to any other address, even one that only this machine can reach. obstore
follows redirects and has no option against it.
"""

import re
import time
from functools import lru_cache

import requests
from requests.adapters import HTTPAdapter

RETRY_WAITS = (0.2, 0.6, 1.8, 5.4, 16.2, 30.0)  # seconds before the next try, about a minute in all
RETRIED_STATUS = (429, 500, 502, 503, 504)
TIMEOUT = (5.0, 60.0)  # seconds to connect, and seconds without a byte
MAX_CONNECTIONS = 64  # open connections per server; a driver indexes 16 shards at a time


class WebError(ValueError):
    """A web server cannot be reached, or its answer cannot be used."""


def fetch(url: str, start: int = 0, end: int = 0) -> tuple[bytes, int, str | None]:
    """Return the bytes [start, end) of a file (fewer at its end), its size in bytes, and its ETag.

    If `end` is 0, no bytes are read. After an error of the server or of the connection, the request is repeated for
    about a minute.

    Raises:
        FileNotFoundError: The file does not exist.
        WebError: The server redirects, does not serve ranges, refuses the request, or cannot be reached.
    """
    for wait in (*RETRY_WAITS, None):
        try:
            with _session().request(
                "GET" if end else "HEAD",
                url,
                headers={"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-{end - 1}"} if end else {}),
                timeout=TIMEOUT,
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.status_code not in RETRIED_STATUS:
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
        raise WebError("the server sends only whole files, but ranges are needed; download the file")
    if status == 416:
        raise WebError(
            f"the range from byte {start} begins beyond the end of the file, which may have changed; run this again"
        )
    if status != 206:
        raise WebError(f"the server answers {status} {response.reason}; check the URL, or download the file")
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
        session.mount(scheme, HTTPAdapter(pool_connections=MAX_CONNECTIONS, pool_maxsize=MAX_CONNECTIONS))
    return session
