"""Create an adapter, teach it, ask it: the whole of the library's first page."""

from ouroboros import TrainingExample, open_sync_engine

EXAMPLES = [
    TrainingExample("Where is my parcel?", "delivery"),
    TrainingExample("The courier never came.", "delivery"),
    TrainingExample("My package is three days late.", "delivery"),
    TrainingExample("I was charged twice.", "billing"),
    TrainingExample("Please send me an invoice.", "billing"),
    TrainingExample("My card was refused at the checkout.", "billing"),
    TrainingExample("I forgot my password.", "account"),
    TrainingExample("I cannot log in any more.", "account"),
    TrainingExample("Please change my email address.", "account"),
]

with open_sync_engine() as engine:
    engine.create_adapter("quickstart").unwrap()

    version = engine.train_adapter("quickstart", EXAMPLES).unwrap()
    if version.report is not None:
        print(f"{version.ref}: loss {version.report.first_loss:.2f} -> {version.report.final_loss:.2f}")

    for adapter in (None, "quickstart"):
        answer = engine.generate_with_adapter("I was charged twice.", adapter).unwrap()
        print(f"{adapter or 'base model'}: {answer.text.strip()}")
