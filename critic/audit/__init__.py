"""Audits: trace a critic to its data and code, verify its record, and reproduce it (docs/audit.md).

Each stage writes a manifest (`manifests`, `environment`). A record is the manifests, dvc.lock and params.yaml of a
checkout or a commit (`records`); `resolve` finds that of what the user names. The other modules read records.
"""
