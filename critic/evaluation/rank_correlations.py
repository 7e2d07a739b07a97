"""Spearman's rho and Kendall's tau-b of many samples of the same rows, without sorting each sample.

    ranks = Ranks(scores, mos)
    ranks.kendall(w)    # tau-b of each sample, [samples]

A sample is a row of weights, as in `critic.evaluation.bootstrap`. The rows are sorted once; a sample needs only
sums of its weights along that order.
"""

from functools import cached_property
from math import ceil, log2, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critic.evaluation.bootstrap import Array, ratio

Whole = NDArray[np.int64]
Indices = NDArray[np.intp]

_PART = 64
"""The most rows of which every two are compared."""


class Ranks:
    """Rows in the order of x and in that of y.

    A correlation of a sample is 0 where it is not defined: x or y is constant, or no row was drawn.

    It takes about 600 bytes a row, and 8 more for each halving of the rows down to 64. Its buffers take 12 times
    the memory of the weights of the largest call.
    """

    def __init__(self, x: Array, y: Array, buffers: "Buffers | None" = None):
        """Sort the rows.

        Args:
            x, y: [rows], finite.
            buffers: to share with other objects, but not with other threads.
        """
        self._buffers = Buffers() if buffers is None else buffers
        level_x, level_y = (np.unique(values, return_inverse=True)[1] for values in (x, y))
        self._x = _Sorted(level_x, np.lexsort((level_y, level_x)), self._buffers)
        self._y = _Sorted(level_y, np.argsort(level_y, kind="stable"), self._buffers)

    def spearman(self, w: Array) -> Array:
        """Spearman's rho of each sample, [samples], in O(rows) a sample: Pearson's r of the ranks.

        Args:
            w: weights [samples, rows], whole numbers.
        """
        rank_x, variation_x = self._x.ranks("ranks of x", w)
        rank_y, variation_y = self._y.ranks("ranks of y", w)
        covariation = np.einsum("sr,sr,sr->s", w, rank_x, rank_y)
        return ratio(covariation, np.sqrt(variation_x) * np.sqrt(variation_y))

    def kendall(self, w: Array) -> Array:
        """Kendall's tau-b of each sample, [samples], in O(rows log rows) a sample.

        Knight (1966), "A computer method for calculating Kendall's tau with ungrouped data": the pairs in the
        wrong order are those that a merge sort by y of the rows in the order of x swaps.

        Args:
            w: weights [samples, rows], whole numbers.
        """
        pairs = np.sum(w, axis=1) ** 2  # with each row itself, and each two in both orders
        (tied_y,) = self._y.tied(self._y.arrange(w), self._y.ends)
        in_order = self._x.arrange(w)
        tied_x, tied_both = self._x.tied(in_order, self._x.ends, self._ends_of_both)
        difference = pairs - tied_x - tied_y + tied_both - 4 * self._swaps.count(in_order)
        return ratio(difference, np.sqrt(pairs - tied_x) * np.sqrt(pairs - tied_y))

    @cached_property
    def _ends_of_both(self) -> Indices:
        return _ends(self._x.level[self._x.order], self._y.level[self._x.order])

    @cached_property
    def _swaps(self) -> "_Swaps":
        return _Swaps(self._x.order, self._y.level, self._buffers)


class Buffers:
    """Arrays by name for the results of numpy, used again by each call: new memory takes longer than the sums."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: type = np.int64) -> NDArray[Any]:
        """An array with any content."""
        size = prod(shape)
        if name not in self._arrays or len(self._arrays[name]) < size:
            self._arrays[name] = np.empty(size, dtype)
        return self._arrays[name][:size].reshape(shape)

    def take(self, name: str, values: NDArray[Any], at: Indices) -> NDArray[Any]:
        """`values[:, at]`."""
        taken = self.get(name, (len(values), *at.shape), values.dtype.type)
        return np.take(values, at, axis=1, out=taken, mode="clip")  # out is slow with mode "raise"


class _Sorted:
    """Rows in an ascending order.

    Attributes:
        level: each row's place among the distinct values, from 0, [rows].
        order: the rows in order, [rows].
        ends: where each level ends in `order`, [levels].
    """

    def __init__(self, level: Indices, order: Indices, buffers: Buffers):
        self.level, self.order, self.ends = level, order, _ends(level[order])
        self._buffers = buffers

    def arrange(self, w: Array) -> Array:
        """The weights in `order`, [samples, rows]."""
        return self._buffers.take("arranged", w, self.order)

    def tied(self, arranged: Array, *ends: Indices) -> list[Whole]:
        """The pairs of drawn rows in the same group, for each way to end groups in `order`, [samples] each."""
        drawn = self._drawn_up_to(arranged)
        sizes = (self._differences(self._up_to_ends(drawn, at)) for at in ends)
        return [np.einsum("sg,sg->s", size, size) for size in sizes]

    def ranks(self, name: str, w: Array) -> tuple[Array, Array]:
        """Twice the difference of each row's rank from the mean, [samples, rows], and its squares' sum, [samples].

        Tied rows share their mean rank. The first array is the buffer `name`.
        """
        up_to = self._up_to_ends(self._drawn_up_to(self.arrange(w)), self.ends)
        drawn = self._differences(up_to)
        ranks = self._buffers.get("ranks", up_to.shape, np.float64)
        np.multiply(up_to, 2, out=ranks)
        ranks -= drawn
        ranks -= np.sum(w, axis=1, keepdims=True)
        return self._buffers.take(name, ranks, self.level), np.einsum("sl,sl,sl->s", drawn, ranks, ranks)

    def _drawn_up_to(self, arranged: Array) -> Whole:
        """How many rows were drawn up to each in `order`, [samples, rows]."""
        whole = self._buffers.get("drawn up to", arranged.shape)  # sums of floats take five times as long
        np.copyto(whole, arranged, casting="unsafe")
        return np.cumsum(whole, axis=1, out=whole)

    def _up_to_ends(self, drawn: Whole, ends: Indices) -> Whole:
        return drawn if len(ends) == len(self.order) else self._buffers.take("up to ends", drawn, ends)

    def _differences(self, up_to: Whole) -> Whole:
        differences = self._buffers.get("differences", up_to.shape)
        differences[:, :1] = up_to[:, :1]
        np.subtract(up_to[:, 1:], up_to[:, :-1], out=differences[:, 1:])
        return differences


class _Swaps:
    """The pairs of rows that are the other way round in a second order.

    The rows in the first order are halved until a part has at most `_PART`. Pairs in such a part are looked up in
    a table. Those of the two halves of a part are counted by sums along the second order.
    """

    def __init__(self, order: Indices, rank: Indices, buffers: Buffers):
        """Compare the orders.

        Args:
            order: the rows in the first order, [rows]; among its ties, by rank.
            rank: each row's in the second order, [rows]; rows of one rank are never the other way round.
        """
        rows = len(order)
        halvings = max(0, ceil(log2(max(rows, 1) / _PART)))
        size = ceil(max(rows, 1) / 2**halvings)
        ranks = np.full(size << halvings, rows)
        ranks[:rows] = rank[order]
        parts = ranks.reshape(-1, size)
        self._size, self._buffers = size, buffers
        self._swapped = np.triu(parts[:, :, None] > parts[:, None, :]).astype(np.float64)
        self._halves = [_between_halves(ranks.reshape(-1, 2, size << level)) for level in range(halvings)]

    def count(self, arranged: Array) -> Whole:
        """The number of such pairs in each sample, [samples].

        Args:
            arranged: weights in the first order, [samples, rows].
        """
        samples, rows = arranged.shape
        parts = self._buffers.get("parts", (samples, len(self._swapped), self._size), np.float64)
        flat = parts.reshape(samples, -1)
        flat[:, :rows], flat[:, rows:] = arranged, 0
        of_part = parts.transpose(1, 0, 2)
        later = np.matmul(of_part, self._swapped, out=self._buffers.get("later", of_part.shape, np.float64))
        found: Whole = np.einsum("psr,psr->s", later, of_part).astype(np.int64)
        whole = self._buffers.get("whole", flat.shape)
        np.copyto(whole, flat, casting="unsafe")
        for by_rank, lower in self._halves:
            n, half = by_rank.shape
            right = self._buffers.take("right", whole, by_rank)
            up_to = self._buffers.get("right up to", (samples, n, 1 + half))
            up_to[:, :, 0] = 0
            np.cumsum(right, axis=2, out=up_to[:, :, 1:])
            of_left = self._buffers.take("lower", up_to.reshape(samples, -1), lower)
            found += np.einsum("snr,snr->s", whole.reshape(samples, n, 2, half)[:, :, 0], of_left)
        return found


def _between_halves(ranks: Indices) -> tuple[Indices, Indices]:
    """The right half of each part by rank, and how much of it is below each row of the left half.

    Args:
        ranks: [parts, 2, half].

    Returns:
        [parts, half] indices of all rows, and of sums [parts, 1 + half] that begin with 0.
    """
    parts, _, half = ranks.shape
    part = np.arange(parts)[:, None]
    left, right = ranks[:, 0], ranks[:, 1]
    by_rank = np.argsort(right, axis=1, kind="stable")
    apart = part * (ranks.max() + 1)  # so that all parts are one ascending array
    ascending = np.take_along_axis(right, by_rank, axis=1) + apart
    lower = np.searchsorted(ascending.ravel(), left + apart) + part
    return by_rank + (2 * part + 1) * half, lower


def _ends(*keys: Indices) -> Indices:
    """Where in sorted rows the next one differs in a key, and the last row."""
    changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
    return np.flatnonzero(np.append(changes, len(keys[0]) > 0))
