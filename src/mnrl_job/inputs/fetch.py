"""From a URI to local files."""

import glob
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mnrl_job.errors import MissingError, SettingsError
from mnrl_job.settings import Source

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A source whose files are on this machine, in a stable order. `root` is the folder where it is one."""

    name: str
    uri: str
    files: tuple[Path, ...]
    root: Path


def fetch(source: Source, variable: str) -> Fetched:
    """Find the files of a source: a file, a folder (all files below it), or a glob.

    Raises:
        MissingError: nothing is there.
        SettingsError: the URI's scheme is not one we read.
    """
    path = local_path(source.uri, variable)
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and not _hidden(file, path)]
    elif path.is_file():
        files = [path]
    else:
        files = [Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file()]
    if not files:
        raise MissingError(f"{variable}: {source.uri} does not exist or holds no file; give a file, folder or glob")
    return Fetched(source.name, source.uri, tuple(sorted(files)), path)


def local_path(uri: str, variable: str) -> Path:
    """`file://` URIs and plain paths.

    Raises:
        SettingsError: for any other scheme.
    """
    parts = urlsplit(uri)
    if "://" not in uri:
        return Path(uri).expanduser()
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    raise SettingsError(f"{variable}: {uri}: {parts.scheme}:// is not supported; give a path or file:// URI")


def base_model(name: str) -> str:
    """A folder that holds a whole model, or a Hub id left as it is.

    Raises:
        MissingError: the folder is not there, or has no weights.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not any(file for pattern in WEIGHTS for file in path.rglob(pattern)):
            raise MissingError(
                f"MNRL_BASE_MODEL: {name} holds no weights ({' or '.join(WEIGHTS)}); "
                "give the folder that SentenceTransformer.save_pretrained() wrote"
            )
        if not (path / "modules.json").is_file() and not (path / "config.json").is_file():
            raise MissingError(f"MNRL_BASE_MODEL: {name} holds neither modules.json nor config.json; it is no model")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.is_file():
        raise MissingError(f"MNRL_BASE_MODEL: {name} is not a folder; give a model folder or a Hub id (owner/name)")
    return name


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith((".", "_")) for part in file.relative_to(root).parts)
