"""Scores of edits: modes, input files, output files that survive a kill, Ray workers, parity of engines, judges."""
