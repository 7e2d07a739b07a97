"""Prefect flows: when the pipeline runs, and what becomes of its result. No machine learning here."""
