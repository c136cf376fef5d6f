"""Finding the right adapter among 10, 100 and 10,000 by the examples of each, for each embedding.

With --qdrant, Qdrant searches the same centroids too: the server at QDRANT_URL or, without one, its
embedded engine behind a stand-in of ours, whose times do not predict those of a server.
"""

import csv
import gzip
import json
import os
import random
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.harness import Claim, Spread

GROUPS = 10
SIZES = (10, 100, 10_000)
EMBEDDINGS = ("base", "minilm")
OTHERS_LEARNED = 8
"""Examples of each further adapter: the user's turns of one dialogue about some services."""

SAME = 1e-5
"""Cosines nearer than this are equal: both sides add up 32-bit floats, in another order."""

STRANGE = {"Homes", "Media", "Music"}
"""Services that no adapter is about: strangers are the openings of dialogues about these alone."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of Banking77: two csv files")
    parser.add_argument("--dialogues", type=Path, required=True, help="SGD's dialogues.jsonl.gz")
    parser.add_argument("--model", default="starter", help="the base model")
    parser.add_argument("--embedding", choices=EMBEDDINGS, help="only this one")
    parser.add_argument("--qdrant", action="store_true", help="search in Qdrant as well")
    parser.add_argument(
        "--rows", type=int, default=500, help="examples of each adapter, as replay keeps"
    )


def run(options: Namespace) -> list[Claim]:
    sizes = (10, 100) if options.quick else SIZES
    n_queries = 100 if options.quick else 1000
    train, test = _intents(options.data / "train.csv"), _intents(options.data / "test.csv")
    dialogues, strange = _dialogues(options.dialogues)
    strangers = [turns[0] for turns in random.Random(0).sample(strange, n_queries)]
    ours = random.Random(0).sample(
        [(text, i) for i, texts in enumerate(test) for text in texts], n_queries
    )
    claims: list[Claim] = []
    with ExitStack() as servers:
        for name in [options.embedding] if options.embedding else EMBEDDINGS:
            print(f"  {name}", file=sys.stderr, flush=True)
            remote = _InQdrant(servers) if options.qdrant else None
            embed = _embedder(name, options.model)
            bench = _Bench(embed, train, options.rows, ours, strangers, remote)
            for size in sizes:
                bench.add(dialogues[:size])
                claims += [
                    prefix_claim(claim, f"{name}, {size:,} adapters") for claim in bench.measure()
                ]
    return claims


class _InQdrant:
    """Portraits as the finder keeps them in Qdrant."""

    def __init__(self, servers: ExitStack) -> None:
        from ouroboros.engine.routing.index_store import StoredCentroidIndex
        from ouroboros.stores.open import open_vectors
        from ouroboros.testing.servers import run_qdrant

        url = os.environ.get("QDRANT_URL")
        url = url or f"qdrant://127.0.0.1:{servers.enter_context(run_qdrant()).port}"
        vectors = open_vectors(f"{url}/bench-{os.getpid()}")
        assert vectors is not None
        servers.callback(vectors.close)
        self._gallery, self._hung = StoredCentroidIndex(vectors), dict[Any, str]()
        self._gallery.sync("bench", self._hung)
        self.search = self._gallery.search

    def put(self, adapter: Any, portrait: Any) -> None:
        self._hung[adapter] = ""
        self._gallery.add(adapter, "", portrait)


class _Bench:
    """One index that grows; the ten adapters that are asked for are in it from the start."""

    def __init__(
        self,
        embed: Any,
        train: Sequence[Sequence[str]],
        rows: int,
        ours: Sequence[tuple[str, int]],
        strangers: Sequence[str],
        remote: "_InQdrant | None",
    ) -> None:
        from ouroboros.learning.replay.anchors import ANCHORS, DRIFT_ANCHORS
        from ouroboros.learning.routing.index import VectorIndex

        self._embed, self._others = embed, 0
        self._index, self._remote = VectorIndex(), remote
        self._anchors = embed([str(a.input) for a in (*ANCHORS, *DRIFT_ANCHORS)])
        for group in range(GROUPS):
            learned = [(t, i) for i in range(group, len(train), GROUPS) for t in train[i]]
            learned = random.Random(group).sample(learned, min(rows, len(learned)))
            self._put(f"ours {group}", [t for t, _ in learned], [str(i) for _, i in learned])
        began = time.perf_counter()
        self._ours = embed([text for text, _ in ours])
        self._per_text = (time.perf_counter() - began) / len(ours)
        self._wanted = [intent % GROUPS for _, intent in ours]
        self._strangers = embed(strangers)

    def add(self, dialogues: Sequence[Sequence[str]]) -> None:
        """Adapters on other tasks, until there are as many as dialogues, ours included."""
        new = dialogues[self._others : len(dialogues) - GROUPS]
        for i, turns in enumerate(new, start=self._others):
            self._put(f"other {i}", turns, turns)
        self._others += len(new)

    def measure(self) -> list[Claim]:
        local_matches, seconds = self._search(self._index, self._ours)
        right = [
            f.adapter.name == f"ours {want}" for f, want in zip(local_matches, self._wanted, strict=True)
        ]
        sure = [r for f, r in zip(local_matches, right, strict=True) if f.sure]
        alarms, _ = self._search(self._index, self._strangers)
        p95 = 1000 * quantiles(seconds, n=20)[-1]
        claims = [
            Claim("right adapter", _percent(right), unit=" %"),
            Claim(
                "of ours, answered by an adapter", _percent([f.sure for f in local_matches]), unit=" %"
            ),
            Claim("of those, by the right one", _percent(sure), unit=" %"),
            Claim(
                "of unrelated prompts, left to the base",
                _percent([not f.sure for f in alarms]),
                unit=" %",
            ),
            Claim("search, p95", Spread.of([p95]), at_most=20, unit=" ms"),
            Claim("embedding one prompt", Spread.of([1000 * self._per_text]), unit=" ms"),
        ]
        if self._remote:
            remote_matches, seconds = self._search(self._remote, self._ours)
            pairs = zip(
                remote_matches, local_matches, strict=True
            )  # adapters that said the same thing are as near
            same = [abs(a.similarity - b.similarity) < SAME for a, b in pairs]
            p95 = 1000 * quantiles(seconds, n=20)[-1]
            claims += [
                Claim("Qdrant finds one as near", _percent(same), at_least=100, unit=" %"),
                Claim("search in Qdrant, p95", Spread.of([p95]), at_most=20, unit=" ms"),
            ]
        return claims

    def _put(self, name: str, texts: Sequence[str], classes: Sequence[str]) -> None:
        from ouroboros.domain.names import AdapterId
        from ouroboros.learning.routing.centroids import compute_centroids

        portrait = compute_centroids(self._embed(texts), classes, self._anchors)
        for index in (self._index, self._remote):
            if index:
                index.put(AdapterId(name), portrait)

    def _search(self, index: Any, vectors: Any) -> tuple[list[Any], list[float]]:
        index.search(vectors[0], 5)  # lays the matrix out
        matches, seconds = [], []
        for vector in vectors:
            began = time.perf_counter()
            matches.append(index.search(vector, 5)[0])
            seconds.append(time.perf_counter() - began)
        return matches, seconds


def _embedder(name: str, model: str) -> Any:
    import asyncio

    import numpy as np

    from ouroboros.backend.local import LocalBackend
    from ouroboros.backend.sentences import SentenceEmbedder

    loop = asyncio.new_event_loop()
    embedder = SentenceEmbedder() if name == "minilm" else LocalBackend.open(model)
    return lambda texts: np.array(loop.run_until_complete(embedder.embed(texts)), dtype=np.float32)


def _intents(file: Path) -> list[list[str]]:
    """The texts of each intent; intents in the order of their names."""
    by_intent: defaultdict[str, list[str]] = defaultdict(list)
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            by_intent[row["category"]].append(row["text"])
    return [by_intent[name] for name in sorted(by_intent)]


def _dialogues(file: Path) -> tuple[list[list[str]], list[list[str]]]:
    """What the user says in each dialogue about no strange service, and in those about nothing else."""
    others, strange = [], []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for dialogue in map(json.loads, lines):
            services = {service.partition("_")[0] for service in dialogue["services"]}
            turns = [text for who, text in dialogue["turns"] if who == "user"][:OTHERS_LEARNED]
            if services <= STRANGE:
                strange.append(turns)
            elif not services & STRANGE:
                others.append(turns)
    return others, strange


def prefix_claim(claim: Claim, what: str) -> Claim:
    from dataclasses import replace

    return replace(claim, text=f"{what}: {claim.text}")


def _percent(hits: Sequence[bool]) -> Spread:
    return Spread.of([100 * sum(hits) / max(len(hits), 1)])
