"""Audits: trace a critic to its data and code, verify its record, and reproduce it (docs/audit.md).

manifests.py    the manifest that each stage writes
environment.py  the packages, processor and GPUs that a stage ran with
records.py      the record of a checkout or a commit: manifests, dvc.lock, params.yaml
resolve.py      what the user names (a file, release, Bento or answer of the service) -> the record that has it
trace.py        a lineage as a tree, Mermaid or HTML
verify.py       the record of a checkout, compared with its files
releases.py     each release, compared with its record
rerun.py        the pipeline of a commit, run again in a clean clone
diff.py         the differences between two critics
coverage.py     the stages that run again when a key of params.yaml changes
attestation.py  the record as a signed in-toto statement
cards/          the model card and the data card, from the record
"""
