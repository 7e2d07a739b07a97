"""Find source images that are the same picture, to detect leaks between splits and to split without leaks.

`facts` come from `critic.data.features.edit_facts`. Two source images look alike if their perceptual hashes
(HASH_SIZE ** 2 bits) differ in at most `phash_distance` bits. Of 256 bits, a picture and its recompressed, resized
or brightened copy differ in a few, two different photographs in about half. Pictures without detail look alike,
whatever their colour.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from hashlib import sha256

import imagehash
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from critic.data.features import HASH_SIZE

SHARED = ("same_source_id", "same_pixels", "looks_like")
"""The columns of `find_shared` that name a row of another split."""


def find_shared(facts: pd.DataFrame, phash_distance: int) -> pd.DataFrame:
    """For each row, a row of another split that has the same source image.

    Returns:
        split, row, id, as in `facts`, and as text, missing if there is no such row:
        same_source_id: a row of another split with the same source_id.
        same_pixels: a row of another split whose source image has the same pixels.
        looks_like: of the rows whose source image looks alike but has other pixels, the one with the nearest hash.
    """
    named = _named(facts)
    return facts[["split", "row", "id"]].assign(
        same_source_id=_same(named, "source_id"),
        same_pixels=_same(named, "pixels"),
        looks_like=_alike(named, phash_distance),
    )


def group_sources(facts: pd.DataFrame, phash_distance: int) -> list[str]:
    """A label for each row, equal for rows whose source images are the same or look alike.

    Groups are connected components: if a looks like b and b like c, all three are one group. The label is the
    group's smallest source_id. Every row needs a decoded source image.
    """
    keys = ["source_id", "pixels"]
    sources = facts.drop_duplicates(keys)
    same = _distances(sources["phash"]) <= phash_distance
    for key in keys:
        values = sources[key].to_numpy()
        same |= values[:, None] == values
    _, component = connected_components(same, directed=False)
    label = sources.groupby(component)["source_id"].transform("min")
    labels = dict(zip(zip(*(sources[key] for key in keys), strict=True), label, strict=True))
    return [labels[row] for row in zip(*(facts[key] for key in keys), strict=True)]


def carve(table: pd.DataFrame, groups: Collection[str], fraction: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table in two, the second with about `fraction` (0..1) of the groups, no group in both.

    The hash of a group's label decides where it goes, so adding groups doesn't move others. Each part gets at
    least one group. `groups` has a label for each row of the table.

    Raises:
        ValueError: fewer than two groups.
    """
    hashes = {label: int(sha256(label.encode()).hexdigest(), 16) / 2**256 for label in groups}
    labels = sorted(hashes, key=hashes.__getitem__)
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} source images can't be split in two: add a validation table")
    carved = [label for label in labels if hashes[label] < fraction] or labels[:1]
    second = pd.Series([*groups]).isin(carved if len(carved) < len(labels) else labels[:-1]).to_numpy()
    return table[~second].reset_index(drop=True), table[second].reset_index(drop=True)


def choose_rows(groups: Sequence[str], share: float) -> NDArray[np.bool_]:
    """For each row, whether it is chosen: whole groups that together have about `share` (0..1) of the rows.

    At least one group is chosen, and never all. They are taken in the order of a hash of their labels, so the
    choice is always the same, whatever the seed of a training. It isn't the hash that `carve` takes, which would
    leave nothing to carve. `groups` has a label for each row.

    Raises:
        ValueError: fewer than two groups.
    """
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise ValueError(f"{len(sizes)} source images can't be split in two")
    labels = sorted(sizes, key=lambda label: sha256(f"test {label}".encode()).digest())
    sums = np.cumsum([sizes[label] for label in labels[:-1]])
    chosen = labels[: np.abs(sums - share * len(groups)).argmin() + 1]
    return np.isin(np.array(groups), chosen)


def find_same_edits(facts: pd.DataFrame) -> "pd.Series[str]":
    """For each row, a row of another split with the same two pictures and instruction, missing if none has."""
    pair = facts["pixels"] + facts["edited_pixels"]  # missing if a picture can't be decoded
    return _same(_named(facts).assign(edit=pair + facts["instruction"]), "edit")


def count_leak(facts: pd.DataFrame, phash_distance: int) -> dict[str, int]:
    """The edits of the test split whose source image is in another split too, and the number of these images.

    Every row of all splits needs a decoded source image. Copies that look alike count as one source image.
    """
    shared = find_shared(facts, phash_distance)
    leaked = facts[(facts["split"] == "test") & shared[[*SHARED]].notna().any(axis=1)]
    sources = {*group_sources(leaked, phash_distance)} if len(leaked) else ()
    return {"edits": len(leaked), "sources": len(sources)}


def count_shared_prompts(facts: pd.DataFrame) -> dict[str, int]:
    """The generated pictures of the test split that share their source_id or pixels with one of another split.

    `facts` are of `critic.data.features.picture_facts`, all decoded. "sources" is the number of their source_ids.
    """
    test, others = facts[facts["split"] == "test"], facts[facts["split"] != "test"]
    shared = test[test["source_id"].isin(others["source_id"]) | test["pixels"].isin(others["pixels"])]
    return {"edits": len(shared), "sources": shared["source_id"].nunique()}


def _named(facts: pd.DataFrame) -> pd.DataFrame:
    """The facts, and the name of each row."""
    return facts.assign(name=[f"{row.split} row {row.row}, id {row.id!r}" for row in facts.itertuples()])


def _same(named: pd.DataFrame, key: str) -> "pd.Series[str]":
    firsts = named.dropna(subset=key).drop_duplicates(["split", key])[["split", key, "name"]]
    pairs = firsts[["split", key]].merge(firsts, on=key, suffixes=("", "_there"))
    return _partners(named, key, pairs[pairs["split"] != pairs["split_there"]])


def _alike(named: pd.DataFrame, phash_distance: int) -> "pd.Series[str]":
    firsts = named.dropna(subset="phash").drop_duplicates(["split", "pixels"])
    distances = _distances(firsts["phash"])
    split, pixels, name = (firsts[key].to_numpy() for key in ("split", "pixels", "name"))
    elsewhere = (split[:, None] != split) & (pixels[:, None] != pixels)
    here, there = np.nonzero(elsewhere & (distances <= phash_distance))
    nearest = np.argsort(distances[here, there], kind="stable")
    here, there = here[nearest], there[nearest]
    apart = [f"{bits:.0f} of {HASH_SIZE**2} bits apart" for bits in distances[here, there]]
    pairs = pd.DataFrame({"split": split[here], "pixels": pixels[here], "name": name[there]})
    return _partners(named, "pixels", pairs.assign(name=pairs["name"] + ", " + apart))


def _partners(named: pd.DataFrame, key: str, pairs: pd.DataFrame) -> "pd.Series[str]":
    """For each row, the name in the first pair with its split and key, missing if there is none."""
    pairs = pairs[["split", key, "name"]].drop_duplicates(["split", key])
    return named[["split", key]].merge(pairs, on=["split", key], how="left")["name"]


def _distances(phashes: "pd.Series[str]") -> NDArray[np.float32]:
    """Hamming distances (n, n) in bits, computed as products of bits mapped to -1 and 1."""
    bits = np.array([imagehash.hex_to_hash(text).hash for text in phashes], dtype=np.float32)
    signs: NDArray[np.float32] = 2 * bits.reshape(len(phashes), HASH_SIZE**2) - 1
    distances: NDArray[np.float32] = np.float32(0.5) * (HASH_SIZE**2 - signs @ signs.T)
    return distances
