"""Whence an object store's credentials come: the usual places of its cloud, and never a location or a spec."""

import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from obstore.auth.boto3 import Boto3CredentialProvider

PLACES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws (pip install 'edict-pipeline[aws]'), "
    "a web identity, or the role of the container or instance",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default login, or the machine's service account",
    "az": "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID with its secret or federated token, "
    "or a managed identity",
}


def s3_provider() -> "Boto3CredentialProvider | None":
    """boto3's chain where ~/.aws is to be read; None where obstore finds by itself what there is.

    Raises:
        ValueError: there are no credentials, the profile that AWS_PROFILE names does not exist, or boto3 is not there.
    """
    given = os.environ.get
    if given("AWS_ACCESS_KEY_ID") or given("AWS_SKIP_SIGNATURE"):
        return None
    files = (
        given("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        given("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    profile = given("AWS_PROFILE")
    if profile or any(Path(file).expanduser().is_file() for file in files):
        try:
            return _boto3()
        except ImportError as error:
            if profile:
                raise ValueError(
                    f"AWS_PROFILE asks for the profile {profile!r}, which takes boto3 to read; "
                    "pip install 'edict-pipeline[aws]', or unset AWS_PROFILE"
                ) from error
    elsewhere = ("WEB_IDENTITY_TOKEN_FILE", "CONTAINER_CREDENTIALS_RELATIVE_URI", "CONTAINER_CREDENTIALS_FULL_URI")
    if not any(given(f"AWS_{name}") for name in elsewhere):
        # obstore would ask an instance that is none again and again, for minutes
        metadata = urlsplit(given("AWS_METADATA_ENDPOINT") or "http://169.254.169.254")
        if not _answers(metadata.hostname, metadata.port or 80):
            raise ValueError(f"no credentials found; give them by {PLACES['s3']}")
    return None


def _boto3() -> "Boto3CredentialProvider":
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        # boto3 knows AWS_DEFAULT_REGION alone, and would give the profile's region where AWS_REGION names another
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        if session.get_credentials() is None:
            raise ValueError(f"no credentials found; give them by {PLACES['s3']}")
        return Boto3CredentialProvider(session)
    except BotoCoreError as error:
        raise ValueError(f"no credentials found ({error}); give them by {PLACES['s3']}") from error


@lru_cache
def _answers(host: str | None, port: int) -> bool:
    """Whether anything listens there; a machine that is no instance of the cloud has nothing."""
    try:
        with socket.create_connection((host or "", port), timeout=2):
            return True
    except OSError:
        return False
