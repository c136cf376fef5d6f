"""Merge two adapters into one, and see whether it is worth it."""

from ouroboros import AdapterConfig, MergeStrategy, TrainingConfig, TrainingExample, open_sync_engine

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
PROBES = [example for examples in TASKS.values() for example in examples]

with open_sync_engine(store="memory:") as engine:
    base = engine.base().unwrap()
    for name, examples in TASKS.items():
        engine.create_adapter(name, AdapterConfig.auto(base)).unwrap()
        engine.train_adapter(name, examples, TrainingConfig.auto(len(examples))).unwrap()

    for strategy in (MergeStrategy.AVERAGE, MergeStrategy.TASK_ARITHMETIC, MergeStrategy.TIES):
        merged = engine.merge_adapters(
            list(TASKS), strategy, name=f"both, {strategy.value}", probes=PROBES
        ).unwrap()
        scores = ", ".join(f"{name} {share:.0%}" for name, share in merged.accuracy.items())
        print(f"rank {merged.rank}, {merged.relative_error:.1%} cut off: {scores}")
        print(merged.advice or "Merging helped: one adapter now does what took two.")
