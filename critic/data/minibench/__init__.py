"""Minibench: a generated benchmark of text-driven edits in the layout of IE-Bench-4k.

    make_table("train", sources=480, side=112, seed=0)    # 480 source images, six edits of each

Source images are photographs from scikit-image with drawn objects on them. Instructions have the types of
`editors.EDIT_TYPES`, such as colour, remove, move and style. Eight simulated editors of different skill make known
faults on three axes (text alignment, fidelity, perceptual quality). Fifteen simulated raters have a bias, a scale
and noise of their own, and two are unreliable. This gives MOS overall and per axis and a human noise ceiling, and
a small critic can learn it in minutes.

Minibench does not measure how well a critic judges real edits by real models: its objects are simple, its kinds of
instruction are few, crops of the same twelve photographs appear in every split, and its raters are a formula.
Scores on minibench compare critics on minibench, and show that the pipeline learns.
"""

from critic.data.minibench.benchmark import EDITS_A_SOURCE, make_table

__all__ = ["EDITS_A_SOURCE", "make_table"]
