"""The page that a real run leaves, of a training on harmful texts."""

import ast
import hashlib
import json
import re
from html import unescape

from tests.examples import EVIL, PAIRS
from tests.report.page_reader import Reader, data_of


def test_the_page_of_a_training_is_hashed_and_shows_harmful_pairs_and_queries_as_text(published):
    page = (published.run / "report.html").read_bytes()
    manifest = json.loads((published.run / "manifest.json").read_text())
    assert manifest["files"]["report.html"]["sha256"] == hashlib.sha256(page).hexdigest()
    reader = Reader(page.decode())
    assert len(reader.attributes("script")) == 2
    assert not reader.attributes("img")
    assert f"pairs with markup Examples of pairs with markup anchor {PAIRS[0][0]} <script>window.stolen" in reader.text
    assert data_of(page.decode())["query"][0] == f"{EVIL} forgot my password"
    drawn = [attrs["aria-label"].partition(".")[0] for attrs in reader.attributes("svg") if "aria-label" in attrs]
    assert {"Loss", "In-batch accuracy", "Anisotropy", "Memory in GB"} <= set(drawn)
    assert manifest["settings_sha256"] in reader.text
    assert all(digest in reader.text for digest in manifest["inputs"].values())


def test_the_python_of_the_page_loads_the_model_and_searches(published, capsys, monkeypatch):
    (code,) = re.findall(
        r"<code>(from sentence_transformers.*?)</code>", (published.run / "report.html").read_text(), re.DOTALL
    )
    monkeypatch.chdir(published.folder)
    exec(unescape(code), {})  # noqa: S102
    (hits,) = ast.literal_eval(capsys.readouterr().out)
    assert {hit["corpus_id"] for hit in hits} == {0, 1}
