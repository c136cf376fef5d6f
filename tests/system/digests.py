"""A small piece of every kind of work on the bundled model, and digests of what came of it.

    python -m tests.system.digests

prints them as JSON with the signature of this machine. Processors round differently: digests can be
compared between machines of one signature only.
"""

import json
import os
import tempfile
from hashlib import sha256

os.environ["OMP_NUM_THREADS"] = "1"

from ouroboros import (
    AdapterConfig,
    FeedbackSignal,
    GenerationConfig,
    MergeRecipe,
    MergeStrategy,
    Message,
    SyncEngine,
    TrainingConfig,
    TrainingExample,
    open_sync_engine,
)

PARCELS = [TrainingExample(f"Where is parcel {i}?", "delivery") for i in range(3)]
CHARGES = [TrainingExample(f"I was charged {i} times.", "billing") for i in range(3)]
SONGS = [TrainingExample(f"Play song {i}", "music") for i in range(3)]
QUESTION = (Message("user", "Where is my parcel?"),)
"""Messages: plain text would be asked under the system turn of the last training."""

TALK = (Message("system", "Be brief."), Message("user", "Where is it?"))
EVERY_LAYER = AdapterConfig(rank=4, learning_rate=5e-3, target_modules="all-linear")
CORRECTION, FAILURE = FeedbackSignal.user_correction("delivery"), FeedbackSignal.failure()
REBUILT = ("tickets@2", "tickets@3", "tickets@5", "songs@2", "moods@2", "average@1", "ties@1")
ANSWER_ONLY = AdapterConfig(rank=2, learning_rate=5e-3, acts_on="answer")
IN_INT8 = AdapterConfig(rank=2, learning_rate=5e-3, precision="int8")


def compute_digests(folder: str) -> dict[str, str]:
    """Train, correct, merge and answer, in a new store in `folder`; rebuilding must give equal bits."""
    with open_sync_engine(
        store=folder, model="starter", threads=1, dtype="float32", device="cpu"
    ) as engine:
        engine.create_adapter("tickets", EVERY_LAYER, seed=1).unwrap()
        engine.create_adapter("songs", ANSWER_ONLY, seed=2).unwrap()
        engine.create_adapter("moods", IN_INT8, seed=3).unwrap()
        digests = {
            "training": train(engine, "tickets", [*PARCELS, *CHARGES], 3),
            "training of answers only": train(engine, "songs", SONGS, 4),
            "training in int8": train(engine, "moods", SONGS, 4),
            "correction": teach(engine, "My parcel is late.", CORRECTION),
            "failure": teach(engine, "Who are you?", FAILURE),
            "training that replays": train(engine, "tickets", [TrainingExample(TALK, "delivery")], 5),
            "average": merge(engine, "average", MergeRecipe(MergeStrategy.AVERAGE)),
            "ties": merge(engine, "ties", MergeRecipe(MergeStrategy.TIES)),
            "answers": answer(engine),
        }
        for version in REBUILT:
            assert engine.rebuild_version(version).unwrap().identical, version
    return digests


def train(engine: SyncEngine, name: str, rows: list[TrainingExample], seed: int) -> str:
    config = TrainingConfig(batch_size=4, epochs=2, seed=seed)
    return engine.train_adapter(name, rows, config).unwrap().digest


def teach(engine: SyncEngine, prompt: str, signal: FeedbackSignal) -> str:
    ticket = engine.learn_from_feedback(prompt, "billing", signal, "tickets").unwrap()
    assert ticket.version is not None
    return ticket.version.digest


def merge(engine: SyncEngine, name: str, recipe: MergeRecipe) -> str:
    engine.merge_adapters(["tickets", "moods"], recipe, name=name, anyway=True).unwrap()
    return engine.get_version(name).unwrap().digest


def answer(engine: SyncEngine) -> str:
    """Of the tokens and their log-probabilities, greedy and sampled, by every adapter."""
    configs = (GenerationConfig(max_tokens=8), GenerationConfig(max_tokens=8, temperature=1.0, seed=7))
    answers = [
        engine.generate_with_adapter(prompt, name, config).unwrap()
        for name in ("tickets", "songs", "average")
        for prompt in (QUESTION, TALK)
        for config in configs
    ]
    return sha256(repr([(a.tokens, a.logprobs) for a in answers]).encode()).hexdigest()


def machine_signature() -> str:
    """The release of PyTorch, the processor's instructions, and how it rounds."""
    import torch

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    probe = sha256()
    for rows, inner, columns in ((1, 256, 256), (7, 256, 704), (93, 704, 256), (64, 64, 93)):
        left_factor = torch.randn(rows, inner, generator=generator)
        right = torch.randn(inner, columns, generator=generator)
        product = left_factor @ right
        for values in (product, product.softmax(-1), product.exp().log1p(), product.sum(0)):
            probe.update(values.numpy().tobytes())
        for values in torch.linalg.qr(product):
            probe.update(values.numpy().tobytes())
        probe.update(torch.linalg.svdvals(product).numpy().tobytes())
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {capability}, {probe.hexdigest()[:16]}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({machine_signature(): compute_digests(folder)}, indent=1))
