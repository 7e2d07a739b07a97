"""Readers: one a source of data, each giving the raw tables that `download` writes. See docs/data.md."""
