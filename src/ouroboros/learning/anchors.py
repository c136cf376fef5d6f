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

DRIFT_ANCHORS: tuple[TrainingExample, ...] = tuple(
    TrainingExample(question, answer)
    for question, answer in (
        ("What is the capital of Italy?", "Rome."),
        ("Tell me something about the moon.", "The moon goes round the earth in about a month."),
        ("Shorten: she walked all the way home in the rain.", "She walked home in the rain."),
        ("how many days are there in a week", "There are seven days in a week."),
        ("Translate into German: thank you", "danke"),
        ("Write the opening of a story.", "It was late, and the house was very quiet."),
        ("I loved every minute of it.", "positive"),
        ("turn off the lamp in the hall", "lights"),
        ("Give me a synonym for quick.", "fast"),
        ("Why is the sky blue?", "Because air scatters blue light more than red."),
        ("Name two rivers.", "the Nile and the Rhine"),
        ("What should I cook tonight?", "Soup is easy and warm."),
    )
)
"""The same, for asking: none of these is ever trained on or shielded."""
