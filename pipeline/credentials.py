"""What is wrong with Google's credentials, in one line that says how to mend it."""

from __future__ import annotations

import os

from pipeline.errors import ConfigError

VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"


def refused(error: Exception) -> ConfigError:
    """The line for what google-auth raised when it looked for credentials or signed in with them."""
    from google.auth.exceptions import TransportError

    said = " ".join(str(error.args[0] if error.args else error).split())[:300].rstrip(".")
    if isinstance(error, TransportError):
        return ConfigError(f"Google's sign-in cannot be reached ({said}); check the network")
    if path := os.environ.get(VARIABLE):  # goes before a login with gcloud, which would mend nothing
        said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else said
        return ConfigError(f"{VARIABLE}={path} is of no use ({said}): mend that file, or unset the variable")
    return ConfigError(
        f"no usable Google credentials ({said}): run `gcloud auth application-default login`, or set {VARIABLE}"
    )


def is_of_file(error: OSError) -> bool:
    """Whether it is the file of credentials itself that cannot be read, which google-auth does not explain."""
    return error.filename is not None and error.filename == os.environ.get(VARIABLE)
