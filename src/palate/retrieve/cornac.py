"""Baselines of the field, trained by the library Cornac (3.0): BPR, VBPR, GRU4Rec, SASRec and TIGER."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from abc import abstractmethod
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from palate.errors import ConfigError, DataError, FeatureError, did_you_mean
from palate.retrieve import Retriever, positive
from palate.retrieve.dense import Dense
from palate.schema import Features, Floats, Interactions, Ints

TOKENIZERS = ("rkmeans", "rqvae")
NEGATIVES = 2048
"""Items drawn a step, all alike, for the sampled softmax of GRU4Rec and SASRec: close to the whole one on small
catalogues. By popularity, Cornac's default, they would take from popular items what popularity gives them."""


class _Cornac(Retriever):
    """A model of Cornac behind the contract; deterministic for a seed (on a GPU, which networks take, nearly).

    Items that it can say nothing of (no train interaction and, where it reads features, no vector) score one below the
    lowest of the others and do not count in a history; a history of such items alone scores by popularity.
    """

    modality: str | None = None

    def __init__(self, **options: Any) -> None:
        """Raises ConfigError where a value does not fit, or Cornac is not installed."""
        if importlib.util.find_spec("cornac") is None:
            raise ConfigError(
                f"retriever {self.name!r} needs the package cornac, which is not installed; "
                "run: pip install 'palate[compare]'"
            )
        for key, value in options.items():
            if key in ("lr", "penalty"):
                positive(key, value)
            elif key == "dropout":
                _number(key, value, 0 <= value < 1 if isinstance(value, int | float) else False, "from 0 to below 1")
            else:
                least = {"seed": 0, "batch": 2, "codes": 2}.get(key, 1)
                fits = isinstance(value, int) and value >= least
                _number(key, value, fits, f"without a fraction, at least {least}")
        if options["width"] % options.get("heads", 1):
            raise ConfigError(
                f"option 'width': expected a number that {options['heads']} heads divide, got {options['width']}"
            )
        self.options = options
        self.seed: int = options["seed"]

    def _fit(self, interactions: Interactions, features: Mapping[str, Features]) -> None:
        known = self.popularity > 0
        if self.modality is not None:
            if self.modality not in features:
                raise FeatureError(
                    f"retriever {self.name!r} needs features of modality {self.modality!r}; "
                    f"{did_you_mean(self.modality, features)}"
                )
            table = Dense(self.modality).fit(interactions, features)
            if not table.present.any():
                raise FeatureError(f"retriever {self.name!r}: no item has a vector of modality {self.modality!r}")
            known = known | table.present
            self.vectors = table.vectors[known]
        self.scored: Ints = np.flatnonzero(known)
        self.place: Ints = np.where(known, np.cumsum(known) - 1, -1)
        with _alone(self.seed):
            self._learn(interactions)

    @abstractmethod
    def _learn(self, train: Interactions) -> None:
        """Train; `scored` (catalogue indices of the items that get a score), `place` (where each item of the catalogue
        is among them, or -1) and `vectors` (theirs, centred, of length 1, zero where missing) are set.
        """

    @abstractmethod
    def _row(self, history: Ints, known: Ints) -> Floats:
        """Scores of the `scored` items; known: the places of those among the history, one at least."""

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        out = np.empty((len(histories), len(self.item_ids)), dtype=np.float32)
        for row, history in zip(out, histories, strict=True):
            places = self.place[history]
            known = places[places >= 0]
            if len(known):
                found = self._row(history, known)
                row[:] = found.min() - 1
                row[self.scored] = found
            else:
                row[:] = self.prior()
        return out


class _Factors(_Cornac):
    """A vector a user and item: scores are their products plus a bias an item.

    A history belongs to the train user whose sequence is the longest that it starts with and that covers at least
    half of it, else to the one whose sequence is the shortest that starts with it and of which it covers at least half
    (a request from before that user's last train events, as `cold-items` makes them); of users alike it is the first.
    Any other history has the mean vector of its items for a user's.
    """

    def _pairs(self, train: Interactions, place: Ints, items: int) -> Any:
        """What Cornac learns from: each pair of user and item once, items numbered by `place`."""
        from cornac.data import Dataset

        self._users: dict[bytes, int] = {}
        pairs: list[tuple[int, int, float]] = []
        for user, sequence in enumerate(train.sequences()):
            self._users.setdefault(sequence.tobytes(), user)
            chosen = np.unique(place[sequence])
            if len(chosen) < items:  # whoever chose everything prefers nothing, and Cornac would look for it forever
                pairs += [(user, int(item), 1.0) for item in chosen]
        if not pairs:
            raise DataError(f"retriever {self.name!r} has nothing to learn from: no user prefers one item to another")
        self._lengths = sorted({len(key) // train.items.itemsize for key in self._users}, reverse=True)
        self._sorted = sorted(self._users)
        return Dataset.build(pairs, global_uid_map=_numbers(len(train)), global_iid_map=_numbers(items), seed=self.seed)

    def _keep(self, users: Any, items: Any, bias: Any) -> None:
        self.users: Floats = np.asarray(users, dtype=np.float32)
        self.items: Floats = np.asarray(items, dtype=np.float32)
        self.bias: Floats = np.asarray(bias, dtype=np.float32)

    def _user(self, history: Ints) -> int | None:
        for length in self._lengths:
            if len(history) / 2 <= length <= len(history):
                found = self._users.get(history[:length].tobytes())
                if found is not None:
                    return found
        key = history.tobytes()
        after = (self._sorted[n] for n in range(bisect_left(self._sorted, key), len(self._sorted)))
        shortest = min(takewhile(lambda sequence: sequence.startswith(key), after), key=len, default=b"")
        return self._users[shortest] if 0 < len(shortest) <= 2 * len(key) else None

    def _row(self, history: Ints, known: Ints) -> Floats:
        user = self._user(history)
        vector = self.items[known].mean(axis=0) if user is None else self.users[user]
        row: Floats = self.items @ vector + self.bias
        return row


class Bpr(_Factors):
    """BPR (Rendle et al., 2009): matrix factorisation by pairs of a chosen item and any other.

    width: factors; penalty: of their squares and of the biases'. An item nobody chose scores below all others. A
    history that no train user's begins (see `_Factors`) is folded in: the mean of its items' factors.
    """

    name = "bpr"

    def __init__(self, width: int = 50, epochs: int = 200, lr: float = 0.02, penalty: float = 0.02, seed: int = 1):
        super().__init__(width=width, epochs=epochs, lr=lr, penalty=penalty, seed=seed)

    def _learn(self, train: Interactions) -> None:
        from cornac.models import BPR

        o = self.options
        model = BPR(k=o["width"], max_iter=o["epochs"], learning_rate=o["lr"], lambda_reg=o["penalty"], seed=o["seed"])
        model.fit(self._pairs(train, self.place, len(self.scored)))
        self._keep(model.u_factors, model.i_factors, model.i_biases)


class Vbpr(_Factors):
    """VBPR (He and McAuley, 2016): BPR with a second product, of a user's vector and an item's projected picture.

    modality: which table is read. Vectors are centred and scaled to length 1; an item without one has zeros, the mean.
    An item nobody chose scores by its picture alone, and below all others where it has none either. Histories as in
    `bpr`. width: factors of either product. penalty: Cornac sums its loss over the square of a batch (100 pairs), so a
    value here does what a hundredth of it does in the paper.
    """

    name = "vbpr"
    reads_features = True

    def __init__(
        self, width: int = 20, epochs: int = 20, lr: float = 5e-3, penalty: float = 1.0, seed: int = 1,
        modality: str = "image",
    ):  # fmt: skip
        super().__init__(width=width, epochs=epochs, lr=lr, penalty=penalty, seed=seed)
        self.modality = modality

    def _learn(self, train: Interactions) -> None:
        from cornac.data import ImageModality
        from cornac.models import VBPR

        chosen = self.popularity[self.scored] > 0  # others are no negatives either: nobody was seen to pass them by
        place = np.full(len(self.place), -1)
        place[self.scored[chosen]] = np.arange(chosen.sum())
        data = self._pairs(train, place, int(chosen.sum()))
        data.add_modalities(item_image=ImageModality(features=self.vectors[chosen]))
        o = self.options
        model = VBPR(
            k=o["width"], k2=o["width"], n_epochs=o["epochs"], learning_rate=o["lr"], lambda_w=o["penalty"],
            lambda_b=o["penalty"], use_gpu=True, verbose=False, seed=o["seed"],
        ).fit(data)  # fmt: skip
        own = np.zeros((len(self.scored), o["width"] + 1), dtype=np.float32)
        own[chosen] = np.column_stack([model.gamma_item, model.beta_item])
        bias = own[:, -1] + (self.vectors @ model.beta_prime)[:, 0]
        items = np.hstack([own[:, :-1], self.vectors @ model.emb_matrix])
        self._keep(np.hstack([model.gamma_user, model.theta_user]), items, bias)


class _Sequential(_Cornac):
    """A model that reads each history anew, in its order; to learn from, each user's sequence is one session."""

    model: Any

    def _sessions(self, train: Interactions) -> Any:
        from cornac.data import SequentialDataset

        events = [
            (user, user, int(item), n)  # the position for a time: ties stay in file order, and times may be unknown
            for user, sequence in enumerate(train.sequences())
            if len(sequence) > 1
            for n, item in enumerate(self.place[sequence])
        ]
        if not events:
            raise DataError(f"retriever {self.name!r} has nothing to learn from: no user has two items")
        return SequentialDataset.build(events, "USIT", global_iid_map=_numbers(len(self.scored)), seed=self.seed)

    def _row(self, history: Ints, known: Ints) -> Floats:
        import torch

        with torch.no_grad():
            return np.asarray(self.model.score(0, known.tolist()), dtype=np.float32).reshape(-1)


class Gru4Rec(_Sequential):
    """GRU4Rec (Hidasi et al., 2016): a recurrent network and a sampled softmax.

    width: of the state and of the item vectors; batch: users read side by side. An item nobody chose scores below all
    others.
    """

    name = "gru4rec"

    def __init__(
        self, width: int = 100, dropout: float = 0.2, epochs: int = 10, lr: float = 0.05, batch: int = 64, seed: int = 1
    ):
        super().__init__(width=width, dropout=dropout, epochs=epochs, lr=lr, batch=batch, seed=seed)

    def _learn(self, train: Interactions) -> None:
        from cornac.models import GRU4Rec

        data, o = self._sessions(train), self.options
        self.model = GRU4Rec(
            layers=[o["width"]], dropout_p_hidden=o["dropout"], n_epochs=o["epochs"], learning_rate=o["lr"],
            batch_size=min(o["batch"], data.num_sessions),  # Cornac fails where a place of the batch is never taken
            n_sample=NEGATIVES, sample_alpha=0.0, device=_device(), seed=o["seed"],
        ).fit(data)  # fmt: skip


class CornacSasRec(_Sequential):
    """SASRec (Kang and McAuley, 2018) as Cornac trains it: every beginning of every sequence an example of its own,
    and a sampled softmax. `sasrec`, Palate's own, learns from all positions at once and is much faster.

    length: how many items it reads back; batch: examples a step. An item nobody chose scores below all others.
    """

    name = "cornac-sasrec"

    def __init__(
        self, width: int = 64, layers: int = 2, heads: int = 2, dropout: float = 0.2, length: int = 50,
        epochs: int = 10, lr: float = 1e-3, batch: int = 256, seed: int = 1,
    ):  # fmt: skip
        super().__init__(
            width=width, layers=layers, heads=heads, dropout=dropout, length=length, epochs=epochs, lr=lr, batch=batch,
            seed=seed,
        )  # fmt: skip

    def _learn(self, train: Interactions) -> None:
        from cornac.models import SASRec

        o = self.options
        self.model = SASRec(
            embedding_dim=o["width"], num_blocks=o["layers"], num_heads=o["heads"], dropout=o["dropout"],
            max_len=o["length"], n_epochs=o["epochs"], learning_rate=o["lr"], batch_size=o["batch"],
            n_sample=NEGATIVES, sample_alpha=0.0, device=_device(), seed=o["seed"],
        ).fit(self._sessions(train))  # fmt: skip


class Tiger(_Sequential):
    """TIGER (Rajput et al., 2023): each item is a few codes, its text vector quantised level by level, and a small T5
    reads the codes of a history and generates those of the next item.

    modality: which table is quantised. Vectors are centred and scaled to length 1; an item without one has zeros, the
    mean; a last code tells items of the same codes apart. An item nobody chose scores by the codes of its text, and
    below all others where it has none either. tokenizer: rkmeans (k-means of the residuals) or rqvae (the paper's
    network); levels, and codes a level. beams: None scores every item by the likelihood of its codes, which is exact
    and slow; a number finds that many items, and all others share a place below. length: items it reads back.
    """

    name = "tiger"
    reads_features = True

    def __init__(
        self, width: int = 64, layers: int = 2, heads: int = 4, dropout: float = 0.1, length: int = 20,
        epochs: int = 10, lr: float = 1e-3, batch: int = 256, tokenizer: str = "rkmeans", codes: int = 64,
        levels: int = 3, beams: int | None = None, seed: int = 1, modality: str = "text",
    ):  # fmt: skip
        super().__init__(
            width=width, layers=layers, heads=heads, dropout=dropout, length=length, epochs=epochs, lr=lr, batch=batch,
            codes=codes, levels=levels, **({} if beams is None else {"beams": beams}), seed=seed,
        )  # fmt: skip
        if tokenizer not in TOKENIZERS:
            raise ConfigError(f"option 'tokenizer': no {tokenizer!r}; {did_you_mean(str(tokenizer), TOKENIZERS)}")
        self.modality, self.tokenizer = modality, tokenizer

    def _learn(self, train: Interactions) -> None:
        from cornac.data import FeatureModality
        from cornac.models import TIGER

        data, o = self._sessions(train), self.options
        data.add_modalities(item_feature=FeatureModality(features=self.vectors))
        self.model = TIGER(
            tokenizer=self.tokenizer, feature_standardize=self.tokenizer == "rqvae",
            rqvae_codebook_size=o["codes"], rqvae_num_levels=o["levels"], d_model=o["width"], d_ff=4 * o["width"],
            d_kv=o["width"] // o["heads"], num_heads=o["heads"], num_enc_layers=o["layers"],
            num_dec_layers=o["layers"], dropout=o["dropout"], max_len=o["length"], n_epochs=o["epochs"],
            learning_rate=o["lr"], batch_size=o["batch"], scoring="beam" if "beams" in o else "exact",
            n_beams=o.get("beams", 1), device=_device(), seed=o["seed"],
        ).fit(data)  # fmt: skip

    def _row(self, history: Ints, known: Ints) -> Floats:
        row = super()._row(history, known)
        lost = row < -1e9  # what Cornac gives to items that its search did not find
        row[lost] = row[~lost].min() - 1
        return row


@contextlib.contextmanager
def _alone(seed: int) -> Iterator[None]:
    """Training that prints nothing, starts from `seed` and leaves the global random states as they were."""
    import torch

    state, disabled = np.random.get_state(), logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # transformers' remarks on the configuration that Cornac gives its T5
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(seed)
            yield
    finally:
        logging.disable(disabled)
        np.random.set_state(state)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _numbers(total: int) -> OrderedDict[int, int]:
    """Cornac's map from ids to indices, where both are the same."""
    return OrderedDict((n, n) for n in range(total))


def _number(key: str, value: Any, fits: bool, kind: str) -> None:
    if not fits or isinstance(value, bool):
        raise ConfigError(f"option {key!r}: expected a number {kind}, got {value!r}")
