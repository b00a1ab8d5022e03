"""The graph of the recipe that $RECIPE names, with its data in $STORE; both default to the last used."""

import os
import warnings

import click
import dagster as dg

from assets.graph import define
from assets.locations import QUIET, resolve_location
from assets.recovery import clear_dead_runs
from pipelines.errors import UserError, printable


def _clear_what_was_killed() -> None:
    """Whoever starts a run loads this module first, so here is where dead runs give back their slots."""
    if os.environ.get("DAGSTER_HOME"):
        with dg.DagsterInstance.get() as instance:
            clear_dead_runs(instance)


for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
warnings.simplefilter("ignore", dg.BetaWarning)  # of backfill_policy, which is what lets one run do all pairs
warnings.simplefilter("ignore", dg.PreviewWarning)  # of Pipes' own insides
try:
    defs = define(resolve_location())
except UserError as error:
    raise click.ClickException(printable(error)) from None  # Dagster's commands print that as one plain sentence
_clear_what_was_killed()
