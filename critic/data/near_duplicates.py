"""Find source images that are the same picture, to detect leaks between splits and to split without leaks.

`facts` come from `critic.data.features.edit_facts`. Two source images look alike if their perceptual hashes
(HASH_SIZE ** 2 bits) differ in at most `phash_distance` bits. Of 256 bits, a picture and its recompressed, resized
or brightened copy differ in a few, two different photographs in about half. Pictures without detail look alike,
whatever their colour.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from critic.data.features import HASH_SIZE

_PAIRS_AT_ONCE = 1 << 21

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
    hashes, codes = _hashes(sources["phash"])
    rows = np.unique(codes, return_index=True)[1]  # the first row with each hash
    links = [rows[np.array(_near(hashes, phash_distance))]]
    for of in (codes, *(pd.factorize(sources[key])[0] for key in keys)):
        links.append(np.array([np.unique(of, return_index=True)[1][of], np.arange(len(sources))]))
    ends = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(ends.shape[1], dtype=bool), ends), shape=(len(sources),) * 2)
    _, component = connected_components(graph, directed=False)
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
    hashes, codes = _hashes(firsts["phash"])
    u, v = _near(hashes, phash_distance)
    same = np.arange(len(hashes))
    near = pd.DataFrame({"code": np.concatenate([u, v, same]), "code_there": np.concatenate([v, u, same])})
    near["bits"] = _bits_apart(hashes[near["code"]], hashes[near["code_there"]])
    here = firsts[["split", "pixels", "name"]].assign(code=codes, place=np.arange(len(firsts)))
    # A split has a picture's pixels once at most, so of its pictures with a hash two are enough.
    there = here.groupby(["code", "split"]).head(2).add_suffix("_there")
    pairs = here.drop(columns="name").merge(near, on="code").merge(there, on="code_there")
    pairs = pairs[(pairs["split"] != pairs["split_there"]) & (pairs["pixels"] != pairs["pixels_there"])]
    pairs = pairs.sort_values(["place", "bits", "place_there"])
    apart = [f", {bits} of {HASH_SIZE**2} bits apart" for bits in pairs["bits"]]
    return _partners(
        named, "pixels", pairs.assign(name=pairs["name_there"] + pd.Series(apart, pairs.index, "str"))
    )


def _partners(named: pd.DataFrame, key: str, pairs: pd.DataFrame) -> "pd.Series[str]":
    """For each row, the name in the first pair with its split and key, missing if there is none."""
    pairs = pairs[["split", key, "name"]].drop_duplicates(["split", key])
    return named[["split", key]].merge(pairs, on=["split", key], how="left")["name"]


def _hashes(phashes: "pd.Series[str]") -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """The different hashes, [n, words], and the number of each row's."""
    words = np.frombuffer(bytes.fromhex("".join(phashes)), np.uint64).reshape(len(phashes), HASH_SIZE**2 // 64)
    hashes, codes = np.unique(words, axis=0, return_inverse=True)
    return hashes, codes.ravel()


def _bits_apart(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """The Hamming distance of each two hashes, [..., words]."""
    return np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.uint16)


def _near(hashes: NDArray[np.uint64], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of all pairs of different hashes that differ in at most `most` bits, the lower first.

    The bits are dealt into `most` + 2 chunks. Two chunks of such a pair are equal (the pigeonhole principle), so
    only hashes with two equal chunks are compared (multi-index hashing, Norouzi et al. 2012). The time is nearly
    linear as long as there are fewer hashes than values of two chunks. If `most` is so large that comparing all
    pairs is faster, they are compared.
    """
    number = len(hashes)
    found = np.empty(0, dtype=np.int64)
    tables, width = comb(most + 2, 2), min(HASH_SIZE**2 // (most + 2), 31)
    indexed = tables * number * (32 + number / 4**width) < number**2
    for here, there in _indexed(hashes, most + 2, width) if indexed else _all_pairs(number):
        close = _bits_apart(hashes[here], hashes[there]) <= most
        if close.any():
            low, high = np.minimum(here, there)[close], np.maximum(here, there)[close]
            found = np.union1d(found, low * number + high)
    return found // max(number, 1), found % max(number, 1)


def _indexed(
    hashes: NDArray[np.uint64], chunks: int, width: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The pairs of hashes that are equal in `width` bits of two of their chunks, some of them several times."""
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    values = np.arange(width, dtype=np.int64)
    keys = [bits[:, chunk::chunks][:, :width] @ (1 << values) for chunk in range(chunks)]
    for one, other in combinations(keys, 2):
        key = one << width | other
        order = np.argsort(key, kind="stable")
        key = key[order]
        start, step = np.arange(len(key)), 1
        while len(start := start[start + step < len(key)]):
            start = start[key[start] == key[start + step]]
            if len(start):
                yield order[start], order[start + step]
            step += 1


def _all_pairs(number: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs, some million at a time."""
    rows = max(1, _PAIRS_AT_ONCE // max(number, 1))
    for first in range(0, number, rows):
        here, there = np.indices((min(rows, number - first), number - first), dtype=np.int64).reshape(2, -1)
        later = there > here
        yield here[later] + first, there[later] + first
