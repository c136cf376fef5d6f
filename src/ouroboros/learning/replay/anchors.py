"""Anchors: plain exchanges that stand for everything that an adapter has not learned.

The journal of a new adapter is short: anchors give an update unrelated prompts to protect, and a
rehearsal prompts on which to stay close to the base. Any ordinary text would do. A training takes
passages that the base writes instead.
"""

from collections.abc import Sequence

from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.losses import Distillation

ANCHOR_WEIGHT = 3.0
"""Weight of an anchor, relative to a row to learn (measured in docs/decisions)."""

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

PROSE: tuple[TrainingExample, ...] = tuple(
    TrainingExample(opening, rest)
    for opening, rest in (
        (
            "The road climbed slowly",
            "between the walls, and at the top we could see the whole bay.",
        ),
        (
            "She put the letter down and",
            "looked out of the window for a long while before answering.",
        ),
        ("In the spring of that year", "the river rose so high that the lower fields were under water."),
        ("He had never liked the house,", "though he could not have said what was wrong with it."),
        (
            "Water boils at a lower temperature",
            "on a mountain, since the air presses less on it there.",
        ),
        ("The committee decided that", "the plan should be put off until the costs were better known."),
        ("First peel the potatoes, then", "cut them into slices and lay them in cold water."),
        ("There was no sound but", "the clock on the stairs and now and then a coal that fell."),
        (
            "Most birds leave in autumn, but",
            "a few stay near the houses, where there is food in winter.",
        ),
        ('"I do not believe you," he said,', "but he was smiling, and she knew that she had won."),
        ("To change the battery,", "slide the cover off and lift the old one out with your nail."),
        ("The two brothers had not spoken", "since the farm was sold, and neither would be the first."),
        ("A triangle has three sides, and", "its angles add up to half a turn."),
        ("By noon the fog was gone and", "the boats went out one after the other."),
        ("If the lamp stays dark,", "check the plug first and then the fuse."),
        ("The price of bread had doubled,", "and people stood in line before it was light."),
        ("When they came to the gate", "it was open, and the dog ran out to meet them."),
        ("Nobody in the village knew", "where the old man had come from or how he lived."),
        ("Light takes about eight minutes", "to reach us from the sun."),
        ("After dinner we sat outside and", "talked until the stars were bright over the hill."),
        ("The report has three parts:", "what was done, what it cost, and what is left to do."),
        ("My grandmother used to say that", "a good night's sleep mends more than a doctor does."),
        ("They packed in a hurry,", "and so the tickets were left on the kitchen table."),
        ("The engine coughed twice and", "stopped, a mile from the nearest house."),
    )
)
"""The same as told rather than asked: most of what a model can say is not an answer."""

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
"""More exchanges, to measure drift: none of these is ever trained on or protected."""


def make_anchor_rows() -> tuple[Row, ...]:
    """Return the anchors as rows that distil the base."""
    return tuple(Row(a.input, a.output, Distillation("base"), ANCHOR_WEIGHT) for a in (*ANCHORS, *PROSE))


def list_protected_examples(known: Sequence[Row]) -> tuple[TrainingExample, ...]:
    """Return the examples that an update should not change: anchors, `known` rows, then prose.

    If there is no room for all, the last ones are left out: the prose.
    """
    known_examples = [TrainingExample(row.prompt, row.output) for row in known if row.output is not None]
    return (*ANCHORS, *known_examples, *PROSE)
