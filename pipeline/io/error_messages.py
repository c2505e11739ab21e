"""Turn the exceptions of obstore and of operating systems into errors of one line that name the location."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from pipeline.io.credentials import CREDENTIAL_SOURCES
from pipeline.io.errors import AlreadyExists, BadName, NotFound, StorageError
from pipeline.io.locations import cloud_of, local_path
from schemas.locations import without_secrets

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_BAD_CREDENTIALS = (
    "AuthenticationFailed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
)
# Messages of obstore, operating systems and web servers for an impossible name. Its causes: a segment that is empty,
# "." or too long; a control character; a file where the name has a folder; a URL that is too long.
_BAD_NAMES = r"illegal character sequence|empty path segment|File name too long|Not a directory|status code: 414"
# Messages of obstore if it found no credentials and then requested them from the machine it runs on.
_NO_CREDENTIALS = r"http://(169\.254\.|metadata\.google|[^/]+/latest/(api|meta-data)/)|Missing (AccessKeyId|SecretAcc)"
_OS_ERRORS = {
    errno.ENOSPC: "no space is left on the device; free space there, or give another location",
    errno.EDQUOT: "the disk quota is used up; free space there, or give another location",
    errno.EROFS: "the filesystem is read-only; mount it writable, or give another location",
    errno.EFBIG: "the file is larger than the limit of the process or of the filesystem; raise `ulimit -f`",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine; raise fs.file-max",
    errno.EACCES: "permission is denied; change the permissions, or give another location",
    errno.EPERM: "the operation is not permitted; change the permissions, or give another location",
    errno.EIO: "the device reports an input/output error; check it",
    errno.EISDIR: "a folder has the name of a file to be written; move it elsewhere",
    errno.ENOTDIR: "a part of the path is a file, not a folder; give another location",
}
_NO_INODES = "no inodes are left on the filesystem (df -i); remove files there, or give another location"
_HINTS = {
    "redirect without LOCATION": "the bucket is in another region; set AWS_REGION to that region",
    "Account must be specified": "the storage account is unknown; set AZURE_STORAGE_ACCOUNT_NAME",
}


@contextmanager
def storage_errors(location: str) -> Iterator[None]:
    """Turn the exceptions of obstore and of the operating system in a `with` block into a StorageError.

    Raises:
        NotFound: The object does not exist.
        BadName: The storage does not allow the name.
        AlreadyExists: The object exists already.
        StorageError: Any other problem.
    """
    try:
        yield
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        # Not "from error", because the server's answer may contain a key or a token, and a traceback would print it.
        raise _storage_error(location, error) from None


def _storage_error(location: str, error: Exception) -> StorageError:
    # obstore appends its Rust structures, which are many lines long, to the answer of the server.
    text = str(error).partition("Debug source:")[0].strip()
    xml_code = re.search(r"<Code>(\w+)</Code>", text)
    text = re.sub(r"(status code: \d+[^:]*):.*", r"\1", text, flags=re.DOTALL)
    status = text.partition("status code: ")[2]
    code = xml_code[1] if xml_code else status
    sources = CREDENTIAL_SOURCES.get(cloud_of(location) or "")
    if code in _NO_BUCKET:
        return StorageError(f"{location}: the bucket does not exist ({code}); create it, or correct its name")
    if found := re.search(_BAD_NAMES, text):
        return BadName(f"{location}: the storage does not allow this name ({found[0]}); rename it")
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{location}: does not exist")
    if isinstance(error, AlreadyExistsError | FileExistsError):
        return AlreadyExists(f"{location}: exists already, or is being written at this moment")
    if sources and re.search(_NO_CREDENTIALS, text):
        return StorageError(f"{location}: no credentials found; set one of: {sources}")
    if sources and (isinstance(error, UnauthenticatedError) or code in _BAD_CREDENTIALS):
        detail = code or without_secrets(text.partition("credential provider: ")[2])
        return StorageError(f"{location}: the credentials are not accepted ({detail}); renew them: {sources}")
    if sources and (isinstance(error, PermissionDeniedError) or status.startswith("403")):
        return StorageError(f"{location}: access is denied ({code}); check the credentials and their rights: {sources}")
    if reason := _os_error(location, error, text):
        return StorageError(f"{location}: {reason}")
    hint = next((hint for words, hint in _HINTS.items() if words in text), without_secrets(text))
    return StorageError(f"{location}: {hint}")


def _os_error(location: str, error: Exception, text: str) -> str | None:
    """Return the reason of an operating system's error for a local path, and what to do; None for other errors."""
    path, in_rust = local_path(location), re.search(r"\(os error (\d+)\)", text)
    number = error.errno if isinstance(error, OSError) else int(in_rust[1]) if in_rust else None
    if path is None or number is None:
        return None
    if number == errno.ENOSPC:
        found = os.statvfs(next(folder for folder in (path, *path.parents) if folder.exists()))
        # One inode may be free: that of the temporary file, which was deleted after the error.
        if found.f_files and found.f_favail < 2:
            return _NO_INODES
    return _OS_ERRORS.get(number)
