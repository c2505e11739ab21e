"""The errors of storage: local files, object stores and web servers."""

from pipeline.errors import JobError


class StorageError(JobError):
    """A location cannot be opened, read or understood. The message names the location."""


class NotFound(StorageError):
    """The file or object does not exist. (A bucket that does not exist is a StorageError.)"""


class BadName(NotFound):
    """The storage does not allow a name, so no object can have it."""


class FileTooLarge(StorageError):
    """The file or object is larger than the limit."""


class AlreadyExists(StorageError):
    """The file or object exists already, or is being written at this moment."""
