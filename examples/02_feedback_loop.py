"""Correct an adapter, praise it, take a lesson back: learning from one judgement at a time."""

from ouroboros import FeedbackSignal, TrainingExample, open_sync_engine

EXAMPLES = [
    TrainingExample("Where is my parcel?", "delivery"),
    TrainingExample("The courier never came.", "delivery"),
    TrainingExample("I was charged twice.", "billing"),
    TrainingExample("Please send me an invoice.", "billing"),
    TrainingExample("I forgot my password.", "account"),
    TrainingExample("I cannot log in any more.", "account"),
]
QUESTION = "Can I pay after the parcel has come?"

with open_sync_engine(store="memory:") as engine:
    engine.create_adapter("desk").unwrap()
    engine.train_adapter("desk", EXAMPLES).unwrap()

    answer = engine.generate_with_adapter(QUESTION, "desk").unwrap()
    right = FeedbackSignal.user_correction("billing" if answer.text != "billing" else "delivery")
    ticket = engine.learn_from_feedback(QUESTION, answer, right, "desk", user="ann").unwrap()
    if ticket.lesson and ticket.version:
        print(f"{ticket.version.ref}: {ticket.lesson.words}")

    corrected = engine.generate_with_adapter(QUESTION, "desk").unwrap()
    print(f"before: {answer.text}\nafter:  {corrected.text}")

    praise = engine.learn_from_feedback(QUESTION, corrected, FeedbackSignal.success(), "desk").unwrap()
    if praise.lesson:
        print(praise.lesson.words)

    engine.rollback_adapter("desk@2").unwrap()
    print(f"undone: {engine.generate_with_adapter(QUESTION, 'desk').unwrap().text}")
