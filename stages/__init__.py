"""The pipeline's stages: each module loads its params, calls the critic or TRL, writes its outs."""
