"""Every training and judgement makes a version: compare them, go back, forget, and prove it."""

from ouroboros import FeedbackSignal, TrainingExample, open_sync_engine

EXAMPLES = [
    TrainingExample("Where is my parcel?", "delivery"),
    TrainingExample("The courier never came.", "delivery"),
    TrainingExample("I was charged twice.", "billing"),
    TrainingExample("Please send me an invoice.", "billing"),
]

with open_sync_engine(store="memory:") as engine:
    engine.create_adapter("tickets").unwrap()
    engine.train_adapter("tickets", EXAMPLES).unwrap()
    ticket = engine.learn_from_feedback(
        "My code is 4711, and the locker stays shut.",
        "delivery",
        FeedbackSignal.user_correction("keys"),
        "tickets",
        user="ann",
    ).unwrap()
    assert ticket.version is not None

    # What there is, what it learned, and what was said of it.
    for version, use in engine.track_adapter("tickets").unwrap().versions:
        learned = ", ".join(map(str, version.learned)) or "nothing"
        print(f"{version.ref} ({version.cause}) learned {learned}; {use.good} of {use.judged} right")

    # What changed from one to the other.
    comparison = engine.compare_versions("tickets@2", ticket.version.ref, EXAMPLES).unwrap()
    changed = sum(a.before != a.after for a in comparison.answers)
    print(f"{comparison.distance:.2%} apart; {changed} of {len(comparison.answers)} answers changed")

    # Back, and forth: one pointer moves.
    print(f"serving @{engine.rollback_adapter('tickets@2').unwrap().head}")
    print(f"serving @{engine.rollback_adapter(ticket.version.ref).unwrap().head}")

    # A version can be made again from the journal, to the last bit.
    rebuilt = engine.rebuild_version("tickets").unwrap()
    print(f"{rebuilt.version.ref} made again: {'the same' if rebuilt.identical else rebuilt.distance}")

    # What ann said is erased, and everything that stood on it.
    erasure = engine.forget_user("ann").unwrap()
    print(f"forgotten; removed {', '.join(map(str, erasure.removed))}")
    print(f"serving @{engine.get_adapter('tickets').unwrap().head}")
