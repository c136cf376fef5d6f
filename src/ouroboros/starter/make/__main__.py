"""Train the starter model from the corpora, end to end."""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ouroboros.starter.make.corpus import Corpus
from ouroboros.starter.make.tokenizer import save_tokenizer, train_tokenizer
from ouroboros.starter.make.train import PretrainingRun, export_model, train

CONTEXT = 1024


def main() -> None:
    """Train the starter model as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m ouroboros.starter.make", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument(
        "--checkpoint", type=Path, help="file to save to and resume from (default: OUT/checkpoint.pt)"
    )
    parser.add_argument("--tokens", type=int, default=5_505_024)
    parser.add_argument("--decay-tokens", type=int, default=0, help="the last ones, at a falling rate")
    parser.add_argument(
        "--start", type=Path, help="a finished model to go on from, with its tokenizer in OUT"
    )
    parser.add_argument("--first-shard", type=int, default=0, help="where in the diet to begin")
    parser.add_argument("--vocabulary", type=int, default=6144)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    # --start goes on from a finished model, which needs the tokenizer that it was trained with.

    torch.set_num_threads(options.threads)
    corpus = Corpus(options.data)
    tokenizer = load_or_train_tokenizer(corpus, options.out, options.vocabulary)
    run = PretrainingRun(
        tokens=options.tokens, decay_tokens=options.decay_tokens, first_shard=options.first_shard
    )
    checkpoint = options.checkpoint or options.out / "checkpoint.pt"
    model = train(corpus, tokenizer, run, checkpoint, options.start)
    export_model(model, options.out)


def load_or_train_tokenizer(corpus: Corpus, folder: Path, size: int) -> Tokenizer:
    """Load the tokenizer if it exists, so that a resumed run keeps its vocabulary; else train it."""
    if not (folder / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer(corpus.sample_texts(60_000), size), folder, CONTEXT)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    main()
