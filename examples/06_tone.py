"""Teach a model a company's tone and form, and check answers to unseen messages by rules.

The rows in `examples/data/tone` are under this project's licence. The bundled model is too small for
whole sentences:

    OUROBOROS_MODEL=smollm2 python examples/06_tone.py
"""

from pathlib import Path
from time import perf_counter

from ouroboros import TrainingConfig, open_sync_engine
from ouroboros.data.examples import read_examples
from ouroboros.data.rules import list_broken_rules, read_rules

FOLDER = Path(__file__).parent / "data" / "tone"


def main() -> None:
    train, heldout = read_examples(FOLDER / "train.jsonl"), read_examples(FOLDER / "heldout.jsonl")
    rules = read_rules(FOLDER / "rules.json")
    with open_sync_engine(store="memory:") as engine:
        # 1. Ten passes over 40 answers.
        engine.create_adapter("tone").unwrap()
        started = perf_counter()
        engine.train_adapter("tone", train, TrainingConfig.auto(len(train), epochs=10)).unwrap()
        print(f"learned {len(train)} answers in {perf_counter() - started:.0f} s")
        # 2. Messages that the adapter has not seen, judged rule by rule.
        answers = engine.evaluate_adapter("tone", heldout).unwrap().answers
        broken = [
            list_broken_rules(rules, row.input, answer)
            for row, answer in zip(heldout, answers, strict=True)
        ]
        print(f"\n{heldout[0].input}\n---\n{answers[0].strip()}\n")
        print(f"{broken.count([])} of {len(heldout)} held-out answers keep all rules")
        for rule in rules:
            count = sum(rule not in rules_broken for rules_broken in broken)
            print(f"  {count} of {len(heldout)}  {rule.name}")


if __name__ == "__main__":
    main()
