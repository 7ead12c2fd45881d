"""What is masked, what is not, and that no text takes long."""

import itertools
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_jobs.redaction import MASK, redact, redact_at_write, redact_begin, redact_call, redact_text
from tests.conftest import Stopwatch

SECRETS = (
    *("password", "passwd", "user_password2", "DB_PASS", "userPass", "pwd", "passphrase", "pass"),
    *("token", "accessToken", "csrfmiddlewaretoken", "X-Auth-Token", "refresh_tokens", "token_id"),
    *(
        "api_key",
        "apiKey",
        "API-KEY",
        "OPENAI_KEY",
        "aws_access_key_id",
        "private_key",
        "SECRET_KEY",
        "ssh_keys",
    ),
    *(
        "client_secret",
        "clientSecret",
        "secrets",
        "credentials",
        "authorization",
        "Proxy-Authorization",
        "auth",
    ),
    *("oauth2", "HTTP_COOKIE", "cookies", "sessionid", "signature", "X-Amz-Signature", "jwt"),
)
FALSE_FRIENDS = (
    *(
        "key",
        "keys",
        "unique_key",
        "primary_key",
        "foreign_key",
        "public_key",
        "s3_key",
        "cacheKey",
        "UNIQUE_KEY",
    ),
    *("author", "authors", "authority", "compass", "passenger", "passed", "bypass", "secretary", "monkey"),
    *("tokens", "max_tokens", "tokenizer", "token_count", "token-limit", "keyword", "api_url", "file_id", ""),
)


@pytest.mark.parametrize("name", SECRETS)
def test_what_goes_by_the_name_of_a_secret_is_masked(name):
    assert redact({"a": [{name: "hunter2"}]}) == {"a": [{name: MASK}]}


@pytest.mark.parametrize("name", FALSE_FRIENDS)
def test_names_that_only_look_like_those_of_secrets_are_shown(name):
    assert redact({name: "hunter2"}) == {name: "hunter2"}


@pytest.mark.parametrize("value", ["hunter2", 1234, 0, 1.5, ["a"], {"user": "ada"}])
def test_all_of_a_secret_is_masked_whatever_it_is(value):
    assert redact({"password": value}) == {"password": MASK}


@pytest.mark.parametrize("value", [None, True, False, "", [], {}])
def test_what_tells_nothing_is_shown(value):
    assert redact({"password": value}) == {"password": value}


@pytest.mark.parametrize("value", [None, 42, 1.5, True, "text", [], {"a": [1, {"b": None}]}])
def test_values_without_secrets_stay_as_they_are(value):
    assert redact(value) == value


def test_texts_within_a_value_are_looked_through():
    value = ["redis://ada:hunter2@host/0", {"log": "password=hunter2 of ada"}]

    assert redact(value) == [f"redis://ada:{MASK}@host/0", {"log": f"password={MASK} of ada"}]


def test_the_value_that_was_given_stays_as_it_was():
    value = {"token": "hunter2", "a": ["password=x"]}

    redact(value)

    assert value == {"token": "hunter2", "a": ["password=x"]}


def test_what_is_nested_too_deeply_is_masked_as_a_whole():
    value = "hunter2"
    for _ in range(100_000):
        value = [value]

    assert redact(value) == MASK
    assert redact_call("a.b", [value], {}, most=10_000) == f"a.b({MASK})"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("password=hunter2", "password=********"),
        ("--password=hunter2 --user=ada", "--password=******** --user=ada"),
        ("Password: hunter2", "Password: ********"),
        ("?user=ada&token=abc&page=2", "?user=ada&token=********&page=2"),
        ("Server=db;Pwd=abc;User=ada", "Server=db;Pwd=********;User=ada"),
        ("{'token': 'it\\'s', 'a': 1}", "{'token': '********', 'a': 1}"),
        ('{"api_key": "x, y", "a": 1}', '{"api_key": "********", "a": 1}'),
        (
            'body "{\\"password\\": \\"hunter2\\", \\"a\\": 1}"',
            'body "{\\"password\\": \\"********\\", \\"a\\": 1}"',
        ),
        ("os.environ['DB_PASSWORD'] = 'x'", "os.environ['DB_PASSWORD'] = '********'"),
        ("    secret = b'abc'", "    secret = b'********'"),
        ("Client(api_key=SecretStr('abc'), a=1)", "Client(api_key=********, a=1)"),
        ("credentials={'id': [1, ')'], 'x': (2)} rest", "credentials=******** rest"),
        ('password="cut off', 'password="********'),
        ("message='password=abc'", "message='password=********'"),
        ("Authorization: Basic dXNlcjpw", "Authorization: ********"),
        ("auth: Basic dXNlcjpw rest", "auth: ******** rest"),
        ("{'Authorization': 'Bearer abc'}", "{'Authorization': '********'}"),
        ("Cookie: a=b; sessionid=c\nHost: d", "Cookie: ********\nHost: d"),
        ("sent Bearer abcdefghijklmnop.q to it", "sent Bearer ******** to it"),
        ("postgres://ada:p@ss@db:5432/shop?x=1", "postgres://ada:********@db:5432/shop?x=1"),
        ("redis://:hunter2@host", "redis://:********@host"),
        ("redis://:s3/s3cret@host/0", "redis://:********@host/0"),
        ("see eyJhbGciOi.eyJzdWIiOi.SflKx-w now", "see ******** now"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC=\n-----END RSA PRIVATE KEY-----\nrest",
            "-----BEGIN RSA PRIVATE KEY-----********-----END RSA PRIVATE KEY-----\nrest",
        ),
        ("-----BEGIN PRIVATE KEY-----\\nMIIE", "-----BEGIN PRIVATE KEY-----********"),
    ],
)
def test_secrets_in_texts_are_masked(text, masked):
    assert redact_text(text) == masked
    assert redact_text(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "",
        "read 3 of 10 pages",
        "INFO shop.auth: ada logged in",
        "jwt.exceptions.InvalidTokenError: Not enough segments",
        "if token == expected:",
        "password=None token: null secret='' credentials={}",
        "max_tokens=512 author=ada unique_key=file:42",
        "http://host:8000/users/ada@example.org",
        "https://example.org/a?b=c ada@example.org",
        'if "-----BEGIN PRIVATE KEY-----" in text:',
        "the bearer of bad news",
        "KeyError: 'password'",
    ],
)
def test_texts_without_secrets_stay_as_they_are(text):
    assert redact_text(text) == text


def test_the_locals_of_a_traceback_are_masked():
    def log_in(user, password):
        raise ValueError("no")

    try:
        log_in("ada", "hunter" + "2")
    except ValueError as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())

    assert "password = 'hunter2'" in text
    assert redact_text(text).count("hunter2") == 0
    assert "user = 'ada'" in redact_text(text)


def test_a_call_is_code_with_masked_values():
    args, kwargs = ["ada", "hunter2", 3], {"token": "x", "force": True, "url": "redis://:pw@host"}

    call = redact_call("users.tasks.invite", args, kwargs, ["name", "password"], most=200)

    assert call == (
        f"users.tasks.invite('ada', '{MASK}', 3, token='{MASK}', force=True, url='redis://:{MASK}@host')"
    )


@pytest.mark.parametrize("parameters", [None, [], ["a", "b", "password"]])
def test_positions_without_a_name_are_masked_by_their_looks_only(parameters):
    assert redact_call("a.b", ["x", {"pin": 1, "token": 2}], {}, parameters, most=200) == (
        f"a.b('x', {{'pin': 1, 'token': '{MASK}'}})"
    )


@pytest.mark.parametrize("most", [8, 9, 20, 44, 45, 46, 60])
def test_a_call_is_cut_where_it_is_too_long(most):
    whole = f"a.b('it\\'s', [1, {{}}, {{'a': None, 'token': '{MASK}'}}], x=True)".replace("\\'", "'").replace(
        "'it's'", '"it\'s"'
    )

    call = redact_call("a.b", ["it's", [1, {}, {"a": None, "token": 2}]], {"x": True}, most=most)

    assert call == (whole if len(whole) <= most else f"{whole[: most - 1]}…")


class Endless(list):
    """A list to which there is no end, or that fails where one looks for it."""

    def __iter__(self):
        yield from itertools.repeat("password=hunter2", 1_000)
        raise AssertionError("Who shows 60 characters looks at a thousand items.")


def test_of_a_long_call_no_more_is_looked_at_than_is_shown():
    with Stopwatch() as watch:
        call = redact_call("a.b", ["x" * 20_000_000, Endless(["x"])], {}, most=60)
        other = redact_call("a.b", [Endless(["x"])], {}, most=60)

    assert call == f"a.b('{'x' * 54}…"
    assert other == f"a.b(['password={MASK}', 'password={MASK}', 'password=**…"
    assert watch.seconds < 1


def test_no_half_of_a_secret_is_left_where_a_call_is_cut():
    url = "postgres://ada:correct-horse-battery@db"

    for most in range(10, 60):
        assert "corr" not in redact_call("a.b", [f"at {url}"], {}, most=most)
        assert "corr" not in redact_begin(f"at {url} {'x' * 50_000}", most)


def test_the_begin_of_a_text_is_that_of_the_whole_masked_one():
    key = f"-----BEGIN PRIVATE KEY-----{'A' * 100_000}-----END PRIVATE KEY-----"
    text = f"{key} password=hunter2 {'x' * 90_000}"

    assert redact_begin(text, 1_000) == redact_text(text)[:1_001]
    assert redact_begin("password=hunter2", 1_000) == f"password={MASK}"


def test_the_settings_are_read_when_they_are_used(settings):
    assert redact({"iban": "DE1", "password": "x"}) == {"iban": "DE1", "password": MASK}

    settings.DJANGO_JOBS = {"REDACT_KEYS": ["IBAN$"], "REDACT_PATTERNS": [r"sk-(\w+)", r"\bDE\d+", "x*"]}

    assert redact({"iban": "DE1", "password": "x"}) == {"iban": MASK, "password": MASK}
    assert redact_text("iban=1 password=y sk-abc DE12") == f"iban={MASK} password=y sk-{MASK} {MASK}"


def test_texts_are_masked_at_write_if_asked_to(settings):
    assert redact_at_write("token=abc") == "token=abc"

    settings.DJANGO_JOBS = {"REDACT_AT_WRITE": True}

    assert redact_at_write("token=abc") == f"token={MASK}"


@pytest.mark.parametrize(
    "part",
    [
        *("a", "-", "a.-", "\\", "\n", " ", "'", '"', "\\'token", "://", "://a:", "://a:b", "://:@", "@"),
        *(
            "eyJ",
            "eyJaaaaaa.",
            "bearer ",
            "authorization:",
            "cookie:",
            "-----BEGIN PRIVATE KEY-----\n",
            "passw",
        ),
        *(
            "password='",
            'token="\\',
            "token=\\'",
            "token=(",
            "token=(\n",
            "token=[{(",
            "token=a()",
            "secret=",
        ),
        *("token= ", "token\\", "password: ", "key=>", "a=b&"),
    ],
)
@pytest.mark.parametrize(
    "begin", ["", "token=", "token", "://a:", "password='", "-----BEGIN PRIVATE KEY-----"]
)
def test_a_hostile_text_takes_time_in_proportion_to_its_length(begin, part):
    # Anything that tries each place against all the others would take hours here.
    redact_text(begin + part * (400_000 // len(part)))


@given(st.text(alphabet=st.sampled_from("""atoken=password:'"\\ \n()[]{},;&://@.-_0authorization""")))
def test_any_text_is_masked_once(text):
    once = redact_text(text)

    assert redact_text(once) == once


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)


@given(json_values)
def test_any_value_keeps_its_shape(value):
    assert redact({"a": value}).keys() == {"a"}
    assert redact(redact(value)) == redact(value)
