"""Local sources: permissions, links and unusual file names."""

import os

import pytest

from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.sources import locate, locate_model
from mnrl_job.errors import DataError, DeniedError, NotFound
from tests.data.located import GOOD, locate_uri


@pytest.fixture
def as_another_user(tmp_path):
    """A folder seen by another user than its owner; root may read everything."""
    if os.geteuid() == 0:
        for folder in (tmp_path, *tmp_path.parents):  # with xdist there is one more
            folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(12345)
    yield tmp_path
    os.seteuid(os.getuid())


@pytest.mark.parametrize("unreadable", ["inputs", "inputs/model.safetensors"])
def test_a_file_or_folder_that_this_user_may_not_read_is_denied_by_name(tmp_path, request, unreadable):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "modules.json").write_bytes(GOOD)
    (tmp_path / "inputs" / "model.safetensors").write_bytes(b"")
    (tmp_path / "inputs").chmod(0o755)  # whatever the umask
    (tmp_path / unreadable).chmod(0)
    request.getfixturevalue("as_another_user")
    message = f"{tmp_path / 'inputs' / 'model.safetensors'}; "
    with pytest.raises(DeniedError, match=rf"^MNRL_TRAIN_DATA: .*\b12345\b.* {message}"):
        locate(Source("train", str(tmp_path / "inputs" / "model.safetensors")), "MNRL_TRAIN_DATA")
    if unreadable != "inputs":
        with pytest.raises(DeniedError, match=rf"^MNRL_BASE_MODEL: .*\b12345\b.* {message}"):
            locate_model(str(tmp_path / "inputs"))


@pytest.mark.parametrize("unreadable", ["", "more", "lost+found", ".snapshot"])
def test_an_unreadable_folder_is_skipped_only_if_it_holds_no_data(tmp_path, request, unreadable):
    for folder in (tmp_path / "inputs", tmp_path / "inputs" / "more", tmp_path / "inputs" / unreadable):
        folder.mkdir(exist_ok=True)
        (folder / "x.jsonl").write_bytes(GOOD)
        folder.chmod(0o755)
        (folder / "x.jsonl").chmod(0o644)
    (tmp_path / "inputs" / unreadable).chmod(0)
    request.getfixturevalue("as_another_user")
    source = Source("train", str(tmp_path / "inputs"))
    if unreadable in ("", "more"):
        with pytest.raises(DeniedError, match=rf"^MNRL_TRAIN_DATA: .*\b12345\b.* {tmp_path / 'inputs' / unreadable}; "):
            locate(source, "MNRL_TRAIN_DATA")
    else:
        assert len(locate(source, "MNRL_TRAIN_DATA").files) == 2


def test_links_to_folders_are_followed_and_every_folder_is_read_once(tmp_path):
    for folder in ("in/a", "elsewhere/deep", "elsewhere/.hidden"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.jsonl").write_bytes(GOOD)
    (tmp_path / "in" / "linked").symlink_to("../elsewhere")
    (tmp_path / "in" / "linked again").symlink_to("../elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to("../in")
    (tmp_path / "in" / "a" / "itself").symlink_to(".")
    (tmp_path / "in" / "nowhere").symlink_to("gone")
    names = [file.relative_to(tmp_path).as_posix() for file in locate_uri(str(tmp_path / "in")).files]
    assert names == ["in/a/x.jsonl", "in/linked/deep/x.jsonl"]


def test_a_volume_of_kubernetes_config_maps_gives_each_file_once(tmp_path):
    """As the kubelet writes it: names link through `..data`, which is replaced by each new version."""
    for name in ("pairs.jsonl", "sub/more.jsonl"):
        (tmp_path / "..2026_11_29" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "..2026_11_29" / name).write_bytes(GOOD)
        (tmp_path / name.partition("/")[0]).symlink_to(f"..data/{name.partition('/')[0]}")
    (tmp_path / "..data").symlink_to("..2026_11_29")
    names = [file.relative_to(tmp_path).as_posix() for file in locate_uri(str(tmp_path)).files]
    assert names == ["pairs.jsonl", "sub/more.jsonl"]


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000])
def test_a_too_long_file_name_counts_as_missing(name):
    with pytest.raises(NotFound, match=f"^MNRL_BASE_MODEL: .*{name.rstrip('/')}"):
        locate_model(name)
    with pytest.raises(NotFound, match=f"^MNRL_TRAIN_DATA: .*{name.rstrip('/')}"):
        locate_uri(name)


def test_a_file_whose_name_is_not_utf8_is_refused_by_name(tmp_path):
    (tmp_path / os.fsdecode(b"gr\xf6\xdfe.jsonl")).write_bytes(GOOD)
    with pytest.raises(DataError, match=r"^MNRL_TRAIN_DATA: .*b'.*/gr\\xf6\\xdfe\.jsonl'"):
        locate_uri(str(tmp_path))


def test_a_path_that_looks_like_name_and_uri_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "date=2026-01-01").mkdir()
    (tmp_path / "date=2026-01-01" / "part-0.jsonl").write_bytes(GOOD)
    for text in ("date=2026-01-01/part-0.jsonl", "date=2026-01-01", "date=2026-*/*.jsonl", "d=date=2026-01-01/"):
        (source,) = Settings(train_data=text).train_data
        assert len(locate(source, "MNRL_TRAIN_DATA").files) == 1
    (source,) = Settings(train_data="date=2026-01-02/part-0.jsonl").train_data
    with pytest.raises(NotFound, match=r"^MNRL_TRAIN_DATA: .*name=uri.* \./date=2026-01-02/part-0\.jsonl"):
        locate(source, "MNRL_TRAIN_DATA")
