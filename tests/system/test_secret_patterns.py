"""Secrets are redacted in any encoding."""

import base64
import html
import http.client
import json
import re
import reprlib
import time
from textwrap import indent
from urllib.parse import quote, quote_plus, urlencode

import h11
import pydantic
import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.system.secret_patterns import compile_secret
from mnrl_job.system.secrets import redact

PLAIN = "ExampleSessionTokenOfNoWorth0123456789"
AWKWARD = 'a+b/c=d~"quoted" \\and\' üñ€𝄞;&<end>%2F'
LINES = "-----BEGIN KEY-----\nMIIEvAIBADANBgkqhkiG\r\n9w0BAQEFAASCBKYwggSi\n-----END KEY-----"
WORDS = "correct horse battery staple"
SECRETS = [PLAIN, AWKWARD, LINES, WORDS]

SPELT = {
    "as it is": str,
    "in words": lambda value: f"the header {value} is not accepted",
    "stripped": str.strip,
    "repr": repr,
    "repr within a repr": lambda value: repr({"header": repr(value)}),
    "repr with the other quotes": lambda value: repr(f"'{value}\"")[1:-1],
    "repr of bytes": lambda value: repr(value.encode()),
    "bytes within a header": lambda value: f"Invalid header value {value.encode()!r}",
    "ascii": ascii,
    "unicode-escape": lambda value: value.encode("unicode-escape").decode(),
    "JSON": json.dumps,
    "JSON in UTF-8": lambda value: json.dumps(value, ensure_ascii=False),
    "JSON within JSON": lambda value: json.dumps({"body": json.dumps({"token": value})}),
    "JSON that escapes slashes": lambda value: json.dumps(value).replace("/", r"\/"),
    "quote": quote,
    "quote of everything": lambda value: quote(value, safe=""),
    "quote in lower case": lambda value: quote(value, safe="").replace("%2B", "%2b").replace("%2F", "%2f"),
    "quote twice": lambda value: quote(quote(value, safe="")),
    "quote_plus": quote_plus,
    "a form": lambda value: urlencode({"password": value, "grant": "x"}),
    "HTML": html.escape,
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 for URLs": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "base64 without padding": lambda value: base64.b64encode(value.encode()).decode().rstrip("="),
    "base64 within a URL": lambda value: quote(base64.b64encode(value.encode()).decode(), safe=""),
    "basic authentication": lambda value: (
        str(urllib3.make_headers(basic_auth=f"user:{value}")) if value.isascii() else ""
    ),
    "on one line": lambda value: " ".join(value.split()),
    "wrapped": lambda value: value.strip().replace(" ", "\n        "),
    "indented": lambda value: indent(value, "    "),
    "its first line": lambda value: value.strip().splitlines()[0],
    "its middle line": lambda value: value.strip().splitlines()[len(value.strip().splitlines()) // 2],
}


def shows(text: str, value: str) -> list[str]:
    """Letters and digits of the secret that stand in a row, five of them, or eight of its base64."""
    plain = re.findall(r"[A-Za-z0-9]{5,}", value)
    encoded = [base64.b64encode(bytes(before) + value.strip().encode()).decode()[4:-4] for before in range(3)]
    runs = [run[at : at + 5] for run in plain for at in range(len(run) - 4)]
    runs += [run[at : at + 8] for run in encoded for at in range(len(run) - 7)]
    return [run for run in runs if run in text]


@pytest.mark.parametrize("end", ["", "\n", " \r\n"], ids=["plain", "line break", "blanks"])
@pytest.mark.parametrize("value", SECRETS, ids=["plain", "awkward", "lines", "words"])
@pytest.mark.parametrize("encode", SPELT.values(), ids=SPELT)
def test_a_secret_is_redacted_in_every_encoding(encode, value, end):
    text = encode(value + end)
    assert not shows(redact(text, {"AWS_SESSION_TOKEN": value + end}), value), text


@pytest.mark.parametrize("user", ["", "u", "me", "api", "somebody"])
@pytest.mark.parametrize("value", ["planted!", "planted-pass", PLAIN])
def test_a_password_is_redacted_in_the_basic_auth_header_of_any_user(user, value):
    header = requests.auth._basic_auth_str(user, value)
    assert redact(f"sent {{'Authorization': '{header}'}}", {"MLFLOW_TRACKING_PASSWORD": value}).count("***") == 1
    assert redact(header, {"MLFLOW_TRACKING_PASSWORD": value}) == "Basic ***", "the user's name goes with it"


def by_pydantic(value):
    class Model(pydantic.BaseModel):
        token: int

    with pytest.raises(pydantic.ValidationError) as caught:
        Model(token=value)
    return str(caught.value)


def by_http_client(value):
    connection = http.client.HTTPConnection("localhost")
    connection.putrequest("GET", "/")
    with pytest.raises(ValueError, match="header value") as caught:
        connection.putheader("X-Token", value.encode())
    return str(caught.value)


def by_requests(value):
    with pytest.raises(requests.exceptions.InvalidHeader) as caught:
        requests.Request("GET", "http://localhost", headers={"X-Token": value}).prepare()
    return str(caught.value)


def by_h11(value):
    with pytest.raises(h11.LocalProtocolError) as caught:
        h11.Request(method="GET", target="/", headers=[("Host", "a"), ("X-Token", value.encode())])
    return str(caught.value)


@pytest.mark.parametrize("refuse", [by_http_client, by_requests, by_h11])
@pytest.mark.parametrize("value", [f"{PLAIN}\nx", f"it's \n\"{PLAIN}"])
def test_a_header_value_that_a_library_rejects_is_redacted(refuse, value):
    """The environment does not know it, as of a credential from a file, a process or a role."""
    text = refuse(value)
    assert not shows(redact(f"{text} (exit 77)", {}), PLAIN), text
    assert redact(f"{text} (exit 77)", {}).endswith(" (exit 77)")


@pytest.mark.parametrize("token", ["eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl", f"hf_{'aB3' * 12}"])
def test_a_string_that_looks_like_a_token_is_redacted(token):
    assert redact(f"sent {token}, refused", {}) == "sent ***, refused"


CUT = {
    "pydantic": by_pydantic,
    "reprlib": reprlib.repr,
    "the first twenty": lambda value: value[:20],
    "with an ellipsis": lambda value: f"token {value[:12]}… is not valid",
    "with dots, in quotes": lambda value: f"'{value[:30]}...'",
    "the last twelve": lambda value: f"token ...{value[-12:]} is not valid",
}


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_no_part_of_a_truncated_secret_is_left(cut):
    value = PLAIN * 3
    redacted = redact(cut(value), {"HF_TOKEN": value})
    assert "***" in redacted
    assert not shows(redacted, value), redacted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("sentence-transformers-2026", "sentence-transformers/all-MiniLM-L6-v2, sentence-transformers-6.2"),
        ("modelmodel", "the model, MODELMODEL, model.model"),
        ("a", "a is a letter"),
        ("12345", "12345 pairs"),
        ("planted!", "cGxhbnQ= is not all of it"),
        (" \n ", "one\n two"),
    ],
)
def test_other_text_is_not_redacted(value, text):
    assert redact(text, {"DB_PASSWORD": value}) == text


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "GITHUB_PAT",
        "DB_PASS",
        "db_password",
        "DB_PWD",
        "REDIS_AUTH",
        "SOME_APIKEY",
        "AZURE_STORAGE_CONNECTION_STRING",
    ],
)
def test_a_variable_with_the_name_of_a_secret_is_secret(name):
    assert redact(f"read {PLAIN}", {name: PLAIN}) == "read ***"


@pytest.mark.parametrize(
    "name", ["PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "AWS_WEB_IDENTITY_TOKEN_FILE", "SSH_AUTH_SOCK"]
)
def test_a_variable_with_the_name_of_a_location_or_flag_is_not_secret(name):
    assert redact(f"read {PLAIN}", {name: PLAIN}) == f"read {PLAIN}"


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "http_proxy"])
@pytest.mark.parametrize("password", ["pl@nted:pass/word", "plain-password"])
def test_the_password_of_a_url_is_redacted_outside_the_url(name, password):
    environ = {name: f"http://somebody:{quote(password, safe='')}@host:80/path"}
    header = requests.auth._basic_auth_str("somebody", password)
    told = redact(f"{environ[name]} gave {password}, {password!r}, {quote(password)}, {header}", environ)
    assert not shows(told, password)
    assert "http://***@host:80/path gave ***, '***'" in told


@given(value=st.text(min_size=8, max_size=40), before=st.text(max_size=5), after=st.text(max_size=5))
def test_any_secret_is_found_in_any_text(value, before, after):
    value = value.strip()
    if len(value) < 8:
        return
    for encode in (repr, ascii, json.dumps, lambda text: quote(text, safe="")):
        assert "***" in compile_secret(value).mask(before + encode(value) + after)


def test_a_long_text_without_spaces_is_searched_quickly():
    began = time.perf_counter()
    redact("QUJD" * 250_000, {"HF_TOKEN": PLAIN, "AWS_SECRET_ACCESS_KEY": AWKWARD, "WANDB_API_KEY": "ABCABCABC"})
    assert time.perf_counter() - began < 5
