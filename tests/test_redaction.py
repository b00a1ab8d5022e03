import json

import pytest

from pipelines.errors import UserError
from pipelines.fetching.redaction import redact, redact_all


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:secret@host/x.zip", "https://***@host/x.zip"),
        ("https://user@host:8080/x.zip", "https://***@host:8080/x.zip"),
        ("https://user:p%40ss@host/x", "https://***@host/x"),
        ("https://user:p@ss@host/x", "https://***@host/x"),
        ("https://user:pa/ss@host/x", "https://***@host/x"),
        ("https://user:pa#ss@host/x?a=1", "https://***@host/x?a=1"),
        ("ftp://anonymous:me%40x@host/", "ftp://***@host/"),
        ("s3://key:secret@bucket/prefix", "s3://***@bucket/prefix"),
        ("HTTPS://U:P@HOST/x", "HTTPS://***@HOST/x"),
        ("https://host/x?token=abc&lang=de", "https://host/x?token=***&lang=de"),
        ("https://host/x?%74oken=abc", "https://host/x?%74oken=***"),
        ("https://host/x?access_token=abc#id_token=def", "https://host/x?access_token=***#id_token=***"),
        ("https://host/x?key=abc;sig=def", "https://host/x?key=***;sig=***"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4&X-Amz-Credential=AKIA%2F1&X-Amz-Signature=9f&X-Amz-Security-Token=q",
            "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4&X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Security-Token=***",
        ),
        ("https://b.s3.amazonaws.com/k?AWSAccessKeyId=AK&Signature=s", "https://b.s3.amazonaws.com/k?AWSAccessKeyId=***&Signature=***"),
        ("https://a.blob.core.windows.net/c?sv=2022&sig=a%2Bb", "https://a.blob.core.windows.net/c?sv=***&sig=***"),
        ("https://d.cloudfront.net/x?Policy=eyJ&Key-Pair-Id=K2", "https://d.cloudfront.net/x?Policy=***&Key-Pair-Id=***"),
        ("https://host/x?a=Zx81kdkslwoeirutyqpwo", "https://host/x?a=***"),
        ("GET 'https://u:p@host/x?token=t' failed (https://u:q@other/y).", "GET 'https://***@host/x?token=***' failed (https://***@other/y)."),
        ("zip://inner.txt::https://u:p@host/x.zip", "zip://inner.txt::https://***@host/x.zip"),
        ("https://host/?url=https://u:p@other/", "https://host/?url=https://***@other/"),
        # no secret: as it was
        ("https://host/?source=de&target=en&preprocessing=moses", None),
        ("https://host:8080/@scope/package?language_code=de&tokenizer=x", None),
        ("https://[::1]:80/x@y", None),
        ("https://host/x?revision=0123456789abcdef0123456789abcdef01234567", None),
        ("user@host and a:b@c without a scheme", None),
        ("s3://bucket/prefix", None),
    ],
)  # fmt: skip
def test_secrets_are_removed_and_the_rest_stays(text: str, expected: str | None) -> None:
    assert redact(text) == (text if expected is None else expected)
    assert redact(redact(text)) == redact(text)


def test_values_and_keys_of_json_are_redacted() -> None:
    found = redact_all({"https://u:p@h/": [{"url": "https://h/?token=t", "n": 3}, ("https://u:p@h", None)]})
    assert json.dumps(found) == '{"https://***@h/": [{"url": "https://h/?token=***", "n": 3}, ["https://***@h", null]]}'


def test_the_message_of_a_user_error_has_no_secret() -> None:
    assert str(UserError("https://u:p@host/x: refused.")) == "https://***@host/x: refused."


def test_long_texts_take_linear_time() -> None:
    text = "https://host/" + "a" * 200_000 + " " + "https://" * 20_000
    assert redact(text) == text
