"""Rationales written by a teacher: a large model behind an OpenAI-compatible endpoint that is given the MOS."""
