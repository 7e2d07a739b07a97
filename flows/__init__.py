"""Prefect flows: when the pipeline runs and what happens with its result. No machine learning here."""
