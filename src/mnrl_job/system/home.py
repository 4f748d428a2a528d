"""Arbitrary users without a home directory, as on Kubernetes and OpenShift: caches go to the work folder."""

import os
import pwd
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from mnrl_job.system.logs import warn

# Default location of each cache by its variable; an unset variable follows the one before.
CACHES = {"XDG_CACHE_HOME": ".cache", "HF_HOME": ".cache/huggingface"}


def provide_home(folder: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """If the home directory is unknown, missing or read-only, make libraries write below `folder`."""
    if not _has_passwd_entry() and not any(environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        environ["USER"] = f"uid-{os.geteuid()}"  # getpass.getuser() fails otherwise
    if not _has_temporary_folder():
        environ["TMPDIR"] = str(_create(folder / "tmp"))
    home = find_home(environ)
    if home and is_writable(home):
        return
    if not home or not _exists(home):
        environ["HOME"] = str(_create(folder / "home"))
        reason = f"HOME={home} does not exist and cannot be created" if home else f"user {os.geteuid()} has no home"
        warn(f"{reason}: caches go to {environ['HOME']}; set HOME to a folder to keep them elsewhere")
        return
    for name, default in CACHES.items():
        if environ.get("XDG_CACHE_HOME"):
            return
        if not environ.get(name) and not _exists(home / default):
            environ[name] = str(_create(folder / default))
            warn(f"HOME={home} is not writable: caches go to {environ[name]}; set {name} to keep them elsewhere")


def find_home(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The home directory: HOME, else that of the passwd entry; None without either."""
    if home := environ.get("HOME"):
        return Path(home)
    return Path(pwd.getpwuid(os.getuid()).pw_dir) if _has_passwd_entry() else None


def hub_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The cache of Hugging Face Hub downloads."""
    caches = environ.get("XDG_CACHE_HOME") or (find_home(environ) or Path()) / ".cache"
    return Path(environ.get("HF_HOME") or Path(caches) / "huggingface")


def is_writable(folder: Path) -> bool:
    """Whether a folder is writable, or could be created."""
    while not _exists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _exists(path: Path) -> bool:
    """Unlike Path.exists, no error without permission."""
    return os.path.exists(path)  # noqa: PTH110


def _create(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _has_passwd_entry() -> bool:
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def _has_temporary_folder() -> bool:
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return False
    return True
