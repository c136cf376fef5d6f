"""Teach a model a company's tone and form, and check answers to unseen messages by rules.

The rows in `examples/tone` belong to this project and are under its licence. The bundled model is too
small for whole sentences:

    OUROBOROS_MODEL=smollm2 python examples/06_tone.py
"""

import json
import re
from pathlib import Path
from time import perf_counter

from ouroboros import GenerationConfig, TrainingConfig, open_sync_engine
from ouroboros.data.examples import read_examples

FOLDER = Path(__file__).parent / "tone"
RULES = json.loads((FOLDER / "rules.json").read_text(encoding="utf-8"))


def find_broken_rules(message: str, answer: str) -> list[str]:
    """Returns the names of the rules that an answer breaks.

    A rule's `pattern` must match the answer; `{ticket}` in it is what `copied` matches in the message.
    """
    broken = []
    for rule in RULES:
        copied = re.search(rule["copied"], message) if "copied" in rule else None
        pattern = (
            rule["pattern"].replace("{ticket}", re.escape(copied[0])) if copied else rule["pattern"]
        )
        if not re.search(pattern, answer.strip()):
            broken.append(rule["rule"])
    return broken


def main() -> None:
    train, heldout = read_examples(FOLDER / "train.jsonl"), read_examples(FOLDER / "heldout.jsonl")
    with open_sync_engine(store="memory:") as engine:
        # 1. Five passes over 40 answers.
        engine.create_adapter("tone").unwrap()
        started = perf_counter()
        engine.train_adapter("tone", train, TrainingConfig.auto(len(train), epochs=5)).unwrap()
        print(f"learned {len(train)} answers in {perf_counter() - started:.0f} s")
        # 2. Messages that the adapter has not seen, judged rule by rule.
        longest = GenerationConfig(max_tokens=96)
        broken: list[list[str]] = []
        for number, example in enumerate(heldout):
            message = str(example.input)
            answer = engine.generate_with_adapter(message, "tone", longest).unwrap().text
            broken.append(find_broken_rules(message, answer))
            if number == 0:
                print(f"\n{message}\n---\n{answer.strip()}\n")
        print(f"{broken.count([])} of {len(heldout)} held-out answers keep all rules")
        for rule in RULES:
            breaking = sum(rule["rule"] in names for names in broken)
            print(f"  {len(heldout) - breaking} of {len(heldout)}  {rule['rule']}")


if __name__ == "__main__":
    main()
