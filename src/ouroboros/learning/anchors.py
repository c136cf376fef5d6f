"""Plain exchanges that stand in for everything an adapter was never told about.

A new adapter has a short journal; these give an update something to keep away from. Only the inputs they
present to each layer matter, so any ordinary text does.
"""

from ouroboros.domain.examples import TrainingExample

ANCHORS: tuple[TrainingExample, ...] = tuple(
    TrainingExample(question, answer)
    for question, answer in (
        ("What is the weather like today?", "It is mild, with some clouds in the afternoon."),
        (
            "Summarise: the meeting moved from Monday to Thursday.",
            "The meeting is on Thursday.",
        ),
        ("How do I boil an egg?", "Put it into boiling water for seven minutes."),
        ("Is 17 a prime number?", "Yes, it has no divisors but 1 and itself."),
        ("Translate into French: good morning", "bonjour"),
        ("Who wrote Hamlet?", "William Shakespeare wrote it around 1600."),
        ("set an alarm for half past six", "alarm"),
        ("The film was far too long and the ending made no sense.", "negative"),
        ("The staff were kind and the room was spotless!", "positive"),
        ("I cannot log in to my account any more.", "Try to reset your password first."),
        ("Write a line about the sea.", "Grey waves fold over the stones and draw back again."),
        ("List three fruits.", "apple, pear, plum"),
        ("play something quiet in the living room", "music"),
        ("What does HTTP stand for?", "Hypertext Transfer Protocol."),
        ("My order arrived broken, what now?", "We are sorry. Send us a photo and we will replace it."),
        ("Thanks, that is all for today.", "You are welcome."),
    )
)
