"""Remove secrets from addresses before they are stored or shown: passwords, tokens, signatures.

Whoever fetches uses the address as the recipe, the environment or a server gives it; whatever is written (errors, lock
file, manifests, cards, reports, logs) goes through `redact`.
"""

import re
from typing import Any
from urllib.parse import unquote, unquote_plus

REDACTED = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,19}://"
_ADDRESS = re.compile(rf"""{_SCHEME}(?:(?!{_SCHEME})[^\s<>"`\\^{{}}|])+""")
_TRAILING = re.compile(r"""[)\]'’,;:.!?]*$""")
_SECRET_NAME = re.compile(
    r"token(?!iz)|secret|passw|signature|credential|jwt|session|api_?key|access_?key|auth|"
    r"(?:^|[^a-z])(?:key|sig|sid|pass|pw|pwd)(?:$|[^a-z])|"
    r"^(?:code|ticket|policy|user|username|login|email|se|sp|sv|st|hmac|k|t)$",
    re.IGNORECASE,
)
_PLAIN_NAME = re.compile(r"(?:^|[^a-z])(?:commit|etag|md5|ref|rev|revision|sha\d*|version)(?:$|[^a-z])", re.IGNORECASE)
_OPAQUE = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9+/=_.~-]{20,}")
"""A value such as a random token: long, of letters and digits, without a separator that texts have."""


def redact(text: str) -> str:
    """Replace in every address of `text` by `***` the user and password, and query values that may be secrets.

    These are values of names such as `token`, `sig` or `X-Amz-Credential`, and long values that look random, but not
    those of names such as `revision`. A secret in the path of an address is not recognised.
    """
    return _ADDRESS.sub(lambda match: _redacted(match[0]), text) if "://" in text else text


def redact_all(item: Any) -> Any:
    """`redact` every text in a JSON value, keys of objects too."""
    if isinstance(item, str):
        return redact(item)
    if isinstance(item, dict):
        return {redact_all(key): redact_all(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [redact_all(value) for value in item]
    return item


def _redacted(address: str) -> str:
    end = _TRAILING.search(address)
    address, trailing = (address[: end.start()], end[0]) if end else (address, "")
    scheme, _, rest = address.partition("://")
    authority = re.match(r"[^/?#]*", rest)[0]  # type: ignore[index]
    if "@" in authority:
        rest = f"{REDACTED}@{rest[authority.rindex('@') + 1 :]}"
    elif ":" in authority and "@" in rest and not re.fullmatch(r"(?:\[.*\]|[^:]*)(?::[0-9]*)?", authority):
        rest = f"{REDACTED}@{rest.rpartition('@')[2]}"  # the password holds an unescaped / ? or #
    return f"{scheme}://{re.sub(r'([?&;#])([^=&;#?]*)=([^&;#]*)', _value, rest)}{trailing}"


def _value(match: re.Match[str]) -> str:
    mark, name, value = match.groups()
    plain, decoded = unquote_plus(name), unquote(value)
    hide = _SECRET_NAME.search(plain) or (_OPAQUE.fullmatch(decoded) and not _PLAIN_NAME.search(plain))
    return f"{mark}{name}={REDACTED}" if value and hide else match[0]
