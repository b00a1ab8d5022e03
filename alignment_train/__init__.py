"""Tensors: from shards to an aligned, evaluated model. Imports no Dagster; `dagster_pipes` only in `report`."""
