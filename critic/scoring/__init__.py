"""Scores of edits: modes, input files, resumable output files, Ray workers, parity of engines, judges."""
