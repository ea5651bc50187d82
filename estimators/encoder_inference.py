"""What the network says about prompts, cached by content key and predicted with averaged weights.

The same prompt gets the same bits whatever else is asked along with it. Kernels round differently for
different shapes, so shapes never depend on the company: a pass has a fixed number of rows, filled up where
prompts are missing, and a length that follows from the prompt's own, in steps.

The average over updates is exponential (Polyak & Juditsky 1992, in the form of Tarvainen & Valpola 2017).
Its memory is short at first: the untrained weights are soon forgotten. Training goes on from the weights
themselves.

N: prompts, M: those not in the cache, E: width of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from depo.estimators.encoder_network import WORD_BITS, Tokenizer, build_network
from depo.estimators.encoder_options import EncoderOptions
from depo.estimators.ngrams import NgramCache


class WeightAverage:
    """Averages of ``weights``, by name. ``decay`` 0: the average is the weights."""

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self.weights = dict(weights) if decay else {}
        self.decay = decay
        self.averages = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """After optimizer step number ``updates``, from 1."""
        share = 1 - min(self.decay, (1 + updates) / (10 + updates))
        for name, weight in self.weights.items():
            self.averages[name].lerp_(weight.detach(), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights inside, and its own again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self.weights.items():
            weight.data, self.averages[name] = self.averages[name], weight.data


ROWS = {"cpu": 8, "cuda": 64}
LENGTH_STEP = {"cpu": 16, "cuda": 64}
TRUNK_ROWS = 256
EMBEDDINGS_KEPT = 200_000  # of a frozen backbone; 1.5 kB each at D = 384
PREDICTIONS_KEPT = 1_000_000


class Encoder:
    """Network and tokenizer on their device, with the caches that predictions and training share."""

    def __init__(self, options: EncoderOptions) -> None:
        self.options = options
        self.device = torch.device(chosen_device(options.device))
        self.tokenizer = Tokenizer(options)
        self.network = build_network(options).to(self.device)
        self.width = self.network.embedding_width
        self.average = WeightAverage(
            {
                name: weight
                for name, weight in self.network.named_parameters()
                if weight.requires_grad and not name.startswith("words.")  # AdaGrad's steps shrink
            },
            options.averaging,
        )
        self._ngrams = NgramCache(WORD_BITS)
        self._embeddings: dict[str, np.ndarray] = {}
        self._outputs: dict[str, np.ndarray] = {}

    def outputs(self, texts: Sequence[str], keys: Sequence[str]) -> np.ndarray:
        """Logits of rate and likelihood and log concentration, float64 (N, 3); cached until ``forget``."""
        if len(self._outputs) > PREDICTIONS_KEPT:
            self._outputs.clear()
        missing = {key: text for text, key in zip(texts, keys, strict=True) if key not in self._outputs}
        if missing:
            texts_M, keys_M = list(missing.values()), list(missing)
            with self.average.in_place():
                outputs_M3 = self._judged(self.embeddings(texts_M, keys_M), texts_M, keys_M)
            self._outputs.update(zip(missing, outputs_M3, strict=True))
        return np.array([self._outputs[key] for key in keys], dtype=np.float64).reshape(-1, 3)

    def forget(self) -> None:
        """After a change of weights. Embeddings of a frozen backbone stay."""
        self._outputs.clear()

    def words(self, texts: Sequence[str], keys: Sequence[str]) -> torch.Tensor | None:
        """What the prompts' n-grams add to the outputs, (N, 3); None where they are not looked at."""
        if self.network.words is None:
            return None
        buckets, counts_N = self._ngrams.rows(list(texts), list(keys))
        return self.network.words(self.tensor(buckets.astype(np.int64)), self.tensor(counts_N))

    def embeddings(self, texts: Sequence[str], keys: Sequence[str]) -> np.ndarray:
        """Pooled embeddings, float32 (N, E); kept when the backbone is frozen."""
        if not self.options.frozen:
            return self._embedded(texts)
        if len(self._embeddings) > EMBEDDINGS_KEPT:
            self._embeddings.clear()
        missing = {key: text for text, key in zip(texts, keys, strict=True) if key not in self._embeddings}
        if missing:
            self._embeddings.update(zip(missing, self._embedded(list(missing.values())), strict=True))
        return np.array([self._embeddings[key] for key in keys], dtype=np.float32).reshape(-1, self.width)

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.options.precision == "bfloat16"
        )

    @torch.no_grad()
    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        ids = self.tokenizer.ids(texts)
        rows, step = ROWS[self.device.type], LENGTH_STEP[self.device.type]
        length_N = [min(-(-len(tokens) // step) * step, self.options.max_length) for tokens in ids]
        order = sorted(range(len(ids)), key=length_N.__getitem__)
        embedding_NE = np.empty((len(ids), self.width), dtype=np.float32)
        self.network.eval()
        with self.autocast():
            while order:
                length = length_N[order[0]]
                taken = [row for row in order[:rows] if length_N[row] == length]
                order = order[len(taken) :]
                # Rows that are missing are filled by repeating one.
                filled = [ids[row] for row in taken] + [ids[taken[0]]] * (rows - len(taken))
                ids_BT, mask_BT = self.tokenizer.padded(filled, length)
                embedding_BE = self.network.embed(self.tensor(ids_BT), self.tensor(mask_BT))
                embedding_NE[taken] = embedding_BE[: len(taken)].float().cpu().numpy()
        return embedding_NE

    @torch.no_grad()
    def _judged(self, embedding_NE: np.ndarray, texts: Sequence[str], keys: Sequence[str]) -> np.ndarray:
        """(N, 3) float64, in passes of a fixed number of rows, the last one filled up with zeros."""
        self.network.eval()
        outputs_N3 = np.empty((len(embedding_NE), 3))
        for start in range(0, len(embedding_NE), TRUNK_ROWS):
            rows = slice(start, start + TRUNK_ROWS)
            part_BE = embedding_NE[rows]
            filled_BE = np.zeros((TRUNK_ROWS, self.width), dtype=np.float32)
            filled_BE[: len(part_BE)] = part_BE
            words_B3 = self.words(texts[rows], keys[rows])
            if words_B3 is not None:
                words_B3 = nn.functional.pad(words_B3, (0, 0, 0, TRUNK_ROWS - len(part_BE)))
            judged_B3 = self.network.judge(self.tensor(filled_BE), words_B3)
            outputs_N3[rows] = judged_B3[: len(part_BE)].cpu().numpy()
        return outputs_N3

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def chosen_device(name: str) -> str:
    """``auto`` is CUDA where there is one. Raises ValueError for ``cuda`` where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("encoder: device is cuda, but no CUDA device is visible; use cpu or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
