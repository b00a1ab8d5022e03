"""Corpus stages, one file each; in order: collect, clean, dedup, decontaminate, instruct, task_data, mix."""
