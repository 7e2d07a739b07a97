"""Read data from each kind of source as the raw tables that `download` writes. See docs/data.md.

Each module reads the part of `download` in params.yaml that has its name; they share `_rows`. To add a source of
benchmarks, which `download.source` can name, add one module to this folder with

    class Settings(Part)                   # the keys of `download.<module>`, see critic.params.Part; if its
                                           # `generated` is true, the tables are of critic.data.generated
    def read(settings, seed, snapshots)    # yields (split, raw table); adds the snapshots of the hub that it reads
"""
