"""What a model's name says, before anything is opened."""

import pytest

from mnrl_job.runtime.storage import is_hub_id, split_revision


@pytest.mark.parametrize("name", ["s3://bucket/foo@v2", "file:///models/foo@v2", "./foo@v2", "/foo@v2", "~/foo@v2"])
def test_an_at_sign_in_a_place_is_part_of_its_name(name):
    assert not is_hub_id(name)
    assert split_revision(name) == (name, "")


def test_so_it_is_in_a_folder_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_revision("models/foo@v2") == ("models/foo", "v2")
    (tmp_path / "models" / "foo@v2").mkdir(parents=True)
    assert split_revision("models/foo@v2") == ("models/foo@v2", "")


@pytest.mark.parametrize(("name", "split"), [("a/b@v2", ("a/b", "v2")), ("a/b", ("a/b", "")), ("b@v2", ("b", "v2"))])
def test_a_model_of_the_hub_has_its_revision_behind_it(name, split):
    assert is_hub_id(name)
    assert split_revision(name) == split
