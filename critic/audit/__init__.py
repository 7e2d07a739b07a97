"""Audits: where a critic came from, whether its record holds, and whether it comes again. See docs/audit.md.

records.py    the record of a checkout or of a commit: manifests, dvc.lock, params.yaml
subjects.py   what is asked about (a file, a release, a Bento, an answer of the service) -> the record that has it
trace.py      a subject's lineage as a tree, Mermaid or HTML
verify.py     the record against what is there
rerun.py      all of it once more, in a clean clone
differ.py     two critics
coverage.py   which stages run again when a key of params.yaml changes
attest.py     the record as a signed in-toto statement
cards.py      the model's and the data's card, from the record
"""
