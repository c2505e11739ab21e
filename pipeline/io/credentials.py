"""Resolve the credentials of an object store from the environment of its cloud, never from a location or a spec."""

import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from obstore.auth.boto3 import Boto3CredentialProvider

CREDENTIAL_SOURCES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws (pip install 'edict-pipeline[aws]'), "
    "a web identity, or the role of the container or instance",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default login, or the machine's service account",
    "az": "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID with its secret or federated token, "
    "or a managed identity",
}


def s3_provider() -> "Boto3CredentialProvider | None":
    """Return boto3's credential provider if ~/.aws has to be read; None if obstore finds the credentials itself.

    Raises:
        ValueError: There are no credentials, the profile in AWS_PROFILE does not exist, or boto3 is not installed.
    """
    getenv = os.environ.get
    if getenv("AWS_ACCESS_KEY_ID") or getenv("AWS_SKIP_SIGNATURE"):
        return None
    files = (
        getenv("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        getenv("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    profile = getenv("AWS_PROFILE")
    if profile or any(Path(file).expanduser().is_file() for file in files):
        try:
            return _boto3_provider()
        except ImportError as error:
            if profile:
                raise ValueError(
                    f"AWS_PROFILE is {profile!r}, and reading a profile needs boto3; "
                    "pip install 'edict-pipeline[aws]', or unset AWS_PROFILE"
                ) from error
    elsewhere = ("WEB_IDENTITY_TOKEN_FILE", "CONTAINER_CREDENTIALS_RELATIVE_URI", "CONTAINER_CREDENTIALS_FULL_URI")
    if not any(getenv(f"AWS_{name}") for name in elsewhere):
        # On a machine outside AWS, obstore would repeat its request to the metadata server for minutes.
        metadata = urlsplit(getenv("AWS_METADATA_ENDPOINT") or "http://169.254.169.254")
        if not _is_listening(metadata.hostname, metadata.port or 80):
            raise ValueError(_no_credentials())
    return None


def _boto3_provider() -> "Boto3CredentialProvider":
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        # boto3 ignores AWS_REGION, and would use the region of the profile.
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        if session.get_credentials() is None:
            raise ValueError(_no_credentials())
        return Boto3CredentialProvider(session)
    except BotoCoreError as error:
        raise ValueError(_no_credentials(f" ({error})")) from error


def _no_credentials(reason: str = "") -> str:
    return f"no credentials found{reason}; set one of: {CREDENTIAL_SOURCES['s3']}"


@lru_cache
def _is_listening(host: str | None, port: int) -> bool:
    """Return True if a server listens at a port. The metadata server exists only on instances of the cloud."""
    try:
        with socket.create_connection((host or "", port), timeout=2):
            return True
    except OSError:
        return False
