"""`isogloss ui`: Dagster's web interface on a recipe and its store."""

import os
import sys

from assets.locations import RunLocation, prepare_home, remember
from pipelines.config import read_recipe
from pipelines.errors import printable
from pipelines.storage.store import Store

EXPOSED = (
    "Warning: --host {host} opens Dagster to the network, and Dagster has no login. Anyone who reaches port {port} can "
    "start, stop and delete runs with your rights, and read recipes, samples of the corpus and paths of this machine. "
    "Prefer 127.0.0.1 with ssh -L {port}:127.0.0.1:{port}, or a proxy with a login (SECURITY.md)."
)


def open_ui(location: RunLocation, host: str, port: int, names: list[str]) -> int:
    """Replace this process by `dagster dev` behind a check of the request's host and origin.

    Args:
        location: What the UI shows.
        host: Address to listen at.
        port: TCP port.
        names: Further host names by which browsers reach the UI.
    """
    from assets.webserver import HOSTS, is_loopback

    recipe = read_recipe(location.recipe)
    prepare_home()
    Store.open(location.store, recipe.name)
    remember(location)
    if not is_loopback(host):
        print(printable(EXPOSED.format(host=host, port=port)), file=sys.stderr, flush=True)
        names = [*names, host]
    os.environ[HOSTS] = ",".join([*names, os.environ.get(HOSTS, "")]).strip(",")
    os.environ.update(RECIPE=str(location.recipe), STORE=location.store)
    print(printable(f"Dagster: http://{host}:{port}  (Ctrl-C stops it)"), flush=True)
    module, listen = ["-m", "assets.definitions"], ["-h", host, "-p", str(port)]
    command = [sys.executable, "-m", "assets.webserver", "dev", *module, *listen, "--log-level", "warning"]
    os.execv(sys.executable, command)
