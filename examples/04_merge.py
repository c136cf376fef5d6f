"""Merge two adapters into one, and see whether it is worth it."""

from ouroboros import (
    Err,
    MergeStrategy,
    Ok,
    TrainingExample,
    open_sync_engine,
)

TASKS = {
    "topic": [
        TrainingExample("Where is my parcel?", "delivery"),
        TrainingExample("The courier never came.", "delivery"),
        TrainingExample("I was charged twice.", "billing"),
        TrainingExample("Please send me an invoice.", "billing"),
    ],
    "mood": [
        TrainingExample("What a lovely evening that was!", "happy"),
        TrainingExample("I enjoyed every minute of it.", "happy"),
        TrainingExample("The soup was cold and so was the waiter.", "angry"),
        TrainingExample("Never again, what a waste of money.", "angry"),
    ],
}

with open_sync_engine(store="memory:") as engine:
    for name, examples in TASKS.items():
        engine.create_adapter(name).unwrap()
        engine.train_adapter(name, examples).unwrap()

    for strategy in (MergeStrategy.AVERAGE, MergeStrategy.TASK_ARITHMETIC, MergeStrategy.TIES):
        name = f"both, {strategy.value}"
        match engine.merge_adapters(list(TASKS), strategy, name=name):
            case Ok(merged):
                scores = ", ".join(f"{n} {share:.0%}" for n, share in merged.accuracy.items())
                print(f"{name}: rank {merged.rank}, {merged.relative_error:.1%} cut off; {scores}")
            case Err(refused):
                print(f"{name}: {refused}")
