"""pyarrow is compiled and makes its compute functions at import: pyright sees neither, so all of it is Any here."""

from typing import Any

def __getattr__(name: str) -> Any: ...
