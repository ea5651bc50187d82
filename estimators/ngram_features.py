"""Text to hashed n-grams: which of 2^bits buckets a prompt's words and characters fall into.

- words and single symbols, lower-cased, one at a time and in pairs;
- runs of 3, 4 and 5 bytes of the lower-cased UTF-8 text (any script, emoji included);
- the length of the text, by half powers of two, so that no text is without features.

Hashes are CRC-32 and multiplications modulo 2^64, the same in every process and on every machine (Python's
own ``hash`` is salted). Character n-grams are hashed with numpy, so that long prompts take milliseconds.
L: bytes of a text, F: its distinct features.
"""

from __future__ import annotations

import math
import re
import zlib
from bisect import bisect_left
from itertools import islice

import numpy as np

TOKEN = re.compile(r"\w+|[^\w\s]")


BYTE_RUNS = (3, 4, 5)


# Odd multipliers with well-spread bits: 2^64 divided by the golden ratio, and two of splitmix64's
# constants (Steele, Lea & Flood 2014).
SPREAD = np.uint64(0x9E3779B97F4A7C15)


MIX_1 = np.uint64(0xBF58476D1CE4E5B9)


MIX_2 = np.uint64(0x94D049BB133111EB)


def hashed_ngrams(text: str, bits: int) -> np.ndarray:
    """Sorted distinct buckets (F,) uint32 below 2^bits; F is at least 1, also for the empty text."""
    text = text.lower()
    encoded = text.encode("utf-8", errors="surrogatepass")  # half an emoji is a text as well
    words = np.array(
        [zlib.crc32(token.encode("utf-8", errors="surrogatepass")) for token in TOKEN.findall(text)],
        dtype=np.uint64,
    )
    bytes_L = np.frombuffer(encoded, dtype=np.uint8).astype(np.uint64)
    length = np.array([int(2 * math.log2(len(encoded) + 1))], dtype=np.uint64)
    hashes = [_in_space(0, length), _in_space(1, words), _in_space(2, words[:-1] * SPREAD + words[1:])]
    for run in BYTE_RUNS:
        if len(bytes_L) >= run:
            hashed = np.zeros(len(bytes_L) - run + 1, dtype=np.uint64)
            for offset in range(run):
                hashed = hashed * SPREAD + bytes_L[offset : len(bytes_L) - run + 1 + offset]
            hashes.append(_in_space(run, hashed))
    buckets = np.concatenate(hashes) >> np.uint64(64 - bits)
    return np.unique(buckets.astype(np.uint32))


def _in_space(space: int, values: np.ndarray) -> np.ndarray:
    """Values (…,) uint64 scattered over 64 bits, differently for each feature kind ``space``."""
    informative = values + SPREAD // np.uint64(space + 1)  # an offset of its own for each kind
    informative = (informative ^ (informative >> np.uint64(30))) * MIX_1
    informative = (informative ^ (informative >> np.uint64(27))) * MIX_2
    return informative ^ (informative >> np.uint64(31))


class FeatureRows:
    """The features of many prompts in one growing array, by key: R rows, E entries in all.

    Past ``limit`` entries the oldest rows are dropped at the next call, and featurised anew when asked for: a
    bound on memory between calls, never on what can be asked.
    """

    def __init__(self, bits: int, limit: int = 64_000_000) -> None:
        self.bits = bits
        self.limit = limit
        self._row: dict[str, int] = {}  # oldest first; numbers go on where rows were dropped
        self._dropped = 0
        self._entries = np.zeros(1024, dtype=np.uint32)  # (E,), with room to grow
        self._ends = [0]  # (R + 1,)

    def rows(self, texts: list[str], keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Buckets of these N prompts, one after the other, (Σ F,) uint32; how many each has, (N,) int64."""
        if self._ends[-1] > self.limit:
            self._drop_oldest()
        for text, key in zip(texts, keys, strict=True):
            if key not in self._row:
                self._add(key, hashed_ngrams(text, self.bits))
        row_N = np.fromiter((self._row[key] for key in keys), dtype=np.int64, count=len(keys))
        row_N -= self._dropped
        ends = np.array(self._ends, dtype=np.int64)
        starts_N, counts_N = ends[row_N], ends[row_N + 1] - ends[row_N]
        # Position of each entry: its row's start, plus how far into the row it is.
        before_N = np.cumsum(counts_N) - counts_N
        positions = np.repeat(starts_N - before_N, counts_N) + np.arange(int(counts_N.sum()))
        return self._entries[positions], counts_N

    def _add(self, key: str, buckets_F: np.ndarray) -> None:
        start, end = self._ends[-1], self._ends[-1] + len(buckets_F)
        if end > len(self._entries):
            grown = np.zeros(2 * end, dtype=np.uint32)
            grown[:start] = self._entries[:start]
            self._entries = grown
        self._entries[start:end] = buckets_F
        self._row[key] = self._dropped + len(self._ends) - 1
        self._ends.append(end)

    def _drop_oldest(self) -> None:
        """As few of the oldest rows as leave at most ``limit`` entries."""
        rows = bisect_left(self._ends, self._ends[-1] - self.limit)
        start, end = self._ends[rows], self._ends[-1]
        self._entries[: end - start] = self._entries[start:end]
        self._ends = [until - start for until in self._ends[rows:]]
        for key in list(islice(self._row, rows)):
            del self._row[key]
        self._dropped += rows
