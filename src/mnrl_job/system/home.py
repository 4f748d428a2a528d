"""A user without a home, as clusters pick them: what libraries would keep there goes to the work folder."""

import os
import pwd
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from mnrl_job.system.logs import warn

# By the variable that moves it. Each follows from the one before where it is not set.
CACHES = {"XDG_CACHE_HOME": ".cache", "HF_HOME": ".cache/huggingface"}


def provide_home(folder: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """Where the home of this user is unknown, or cannot be made or written, have libraries write below `folder`."""
    if not _has_name() and not any(environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        environ["USER"] = f"uid-{os.geteuid()}"  # or getpass.getuser() fails
    if not _has_temporary_folder():
        environ["TMPDIR"] = str(_made(folder / "tmp"))
    home = find_home(environ)
    if home and can_be_written(home):
        return
    if not home or not _exists(home):
        environ["HOME"] = str(_made(folder / "home"))
        told = f"HOME={home} does not exist and cannot be made" if home else f"user {os.geteuid()} has no home"
        warn(f"{told}: caches go to {environ['HOME']}; set HOME to a folder to keep them elsewhere")
        return
    for name, default in CACHES.items():
        if environ.get("XDG_CACHE_HOME"):
            return
        if not environ.get(name) and not _exists(home / default):
            environ[name] = str(_made(folder / default))
            warn(f"HOME={home} cannot be written: caches go to {environ[name]}; set {name} to keep them elsewhere")


def find_home(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The home of this user: what HOME says, else what the system knows; None where that is nothing."""
    if home := environ.get("HOME"):
        return Path(home)
    return Path(pwd.getpwuid(os.getuid()).pw_dir) if _has_name() else None


def hub_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the Hub's downloads go."""
    caches = environ.get("XDG_CACHE_HOME") or (find_home(environ) or Path()) / ".cache"
    return Path(environ.get("HF_HOME") or Path(caches) / "huggingface")


def can_be_written(folder: Path) -> bool:
    """Also for a folder that is still to be made, without making it."""
    while not _exists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _exists(path: Path) -> bool:
    """Unlike pathlib's, no error where this user may not look."""
    return os.path.exists(path)  # noqa: PTH110


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _has_name() -> bool:
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
