"""The n-grams of a text, hashed: what `hybrid` and the text encoder read of its words.

N: prompts, F: features of a prompt, L: bytes of a text.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence

import numpy as np

TOKEN = re.compile(r"\w+|[^\w\s]")
BYTE_RUNS = (3, 4, 5)
LIMIT = 64_000_000  # buckets kept by a cache, 256 MB

# Odd multipliers with well-spread bits: 2^64 divided by the golden ratio, and two of splitmix64's
# constants (Steele, Lea & Flood 2014).
SPREAD = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


def hashed_ngrams(text: str, bits: int) -> np.ndarray:
    """Which of 2^bits buckets a text falls into: sorted, distinct, (F,) uint32; F ≥ 1, also for no text.

    Features are words and single symbols, lower-cased, one at a time and in pairs; runs of 3, 4 and 5 bytes
    of the lower-cased UTF-8 text (any script, emoji included); and the length by half powers of two. Hashes
    are CRC-32 and multiplications modulo 2^64, the same in every process and on every machine (Python's own
    ``hash`` is salted). Character n-grams are hashed with numpy: long prompts take milliseconds.
    """
    text = text.lower()
    encoded = text.encode("utf-8", errors="surrogatepass")  # half an emoji is a text as well
    words = np.array(
        [zlib.crc32(token.encode("utf-8", errors="surrogatepass")) for token in TOKEN.findall(text)],
        dtype=np.uint64,
    )
    bytes_L = np.frombuffer(encoded, dtype=np.uint8).astype(np.uint64)
    length = np.array([int(2 * math.log2(len(encoded) + 1))], dtype=np.uint64)
    spaces = {0: length, 1: words, 2: words[:-1] * SPREAD + words[1:]}
    hashed = bytes_L
    for run in range(2, min(max(BYTE_RUNS), len(bytes_L)) + 1):  # a run is one byte more than the run before
        hashed = hashed[:-1] * SPREAD + bytes_L[run - 1 :]
        if run in BYTE_RUNS:
            spaces[run] = hashed
    # A feature kind has a space of its own: an offset, and then all are scattered over 64 bits.
    mixed = np.concatenate([values + SPREAD // np.uint64(space + 1) for space, values in spaces.items()])
    mixed = (mixed ^ (mixed >> np.uint64(30))) * MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * MIX_2
    mixed ^= mixed >> np.uint64(31)
    buckets = np.sort((mixed >> np.uint64(64 - bits)).astype(np.uint32))
    return buckets[np.append(True, buckets[1:] != buckets[:-1])]  # np.unique takes ten times as long


class NgramCache:
    """Hashed n-grams of prompts by key. Past ``limit`` buckets it starts anew at the next call: a bound on
    memory between calls, never on what can be asked."""

    def __init__(self, bits: int, limit: int = LIMIT) -> None:
        self.bits, self.limit = bits, limit
        self._buckets: dict[str, np.ndarray] = {}
        self._kept = 0

    def rows(self, texts: Sequence[str], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Buckets of these N prompts, one after the other, (Σ F,) uint32; how many each has, (N,) int64."""
        if self._kept > self.limit:
            self._buckets, self._kept = {}, 0
        for text, key in zip(texts, keys, strict=True):
            if key not in self._buckets:
                self._buckets[key] = hashed_ngrams(text, self.bits)
                self._kept += len(self._buckets[key])
        rows = [self._buckets[key] for key in keys]
        counts_N = np.array([len(row) for row in rows], dtype=np.int64)
        return np.concatenate([np.zeros(0, dtype=np.uint32), *rows]), counts_N
