"""Minibench: a benchmark of text-driven edits, shaped like IE-Bench-4k, that makes itself in seconds.

    make_table("train", sources=480, side=112, seed=0)    # 480 source images, six edits of each

What it is: photographs that scikit-image ships, with drawn objects on them; instructions of nine types
(colour, replace, remove, add, resize, move, background, style, material); eight simulated editors of
different skill, whose faults are known on three axes (text alignment, fidelity, perceptual quality); and a
panel of fifteen simulated raters with bias, spread, noise and two unreliable members. So mean opinion
scores, those of each axis and a human noise ceiling exist, and a small critic can learn in minutes.

What it is not: a measure of how well a critic judges real edits by real models. Its objects are simple, its
instructions are few in kind, its twelve photographs appear (in other crops) in every split, and its raters
are a formula. A score on minibench compares critics on minibench, and shows that the pipeline learns.
"""

from critic.data.minibench.benchmark import EDITS_A_SOURCE, make_table

__all__ = ["EDITS_A_SOURCE", "make_table"]
