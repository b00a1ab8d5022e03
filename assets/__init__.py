"""The graph: Dagster around the stages of `pipelines` and the commands of `alignment_train`."""
