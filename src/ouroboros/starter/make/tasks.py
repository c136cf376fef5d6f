"""Labelled tasks from the corpora: rows of (text, label), one list per task."""

import random
import re
from dataclasses import dataclass
from pathlib import Path

from ouroboros.starter.make import sources

Row = tuple[str, str]

CARRIERS = (
    "{}", "{}", "{}, please", "I have a question about {}", "it is about {}", "something with {}",
    "my {}", "the {} again", "can you help me with {}", "what about {}?", "tell me about {}",
    "I was thinking of {}", "we talked about {} and {}", "{} and {}", "{} or {}", "first {}, then {}",
    "Hi, {} is what I need help with", "there is a problem: {}", "I would like {}", "no {} yet",
    "is there any {} left?", "yesterday it was {}, today {}", "Please look into {} for me.",
    "She asked about {}.", "They said {} but I say {}.", "All about {}.", "{}! {}! {}!",
    "I keep thinking of {}, {} and {}", "need {} asap", "hello, {} here", "{} was the topic of the day",
)  # fmt: skip


@dataclass(frozen=True)
class LabelledTask:
    """A labelled task; `share` is how often it is drawn, relative to the others."""

    name: str
    rows: list[Row]
    share: float

    @property
    def by_label(self) -> dict[str, list[str]]:
        """The texts of each label."""
        grouped: dict[str, list[str]] = {}
        for text, label in self.rows:
            grouped.setdefault(label, []).append(text)
        return grouped


def build_tasks(data: Path, rng: random.Random) -> list[LabelledTask]:
    """Build every labelled task, from the training parts only."""
    return [
        *dialogue_tasks(sources.read_dialogues(data)),
        *opinion_tasks(data, rng),
        *writing_tasks(data, rng),
        LabelledTask("field", field_rows(rng, count=100_000), share=8.0),
    ]


# ---- dialogues: what does the user want, which service is it about


def split_camel_case(name: str) -> str:
    """`ReserveRoundtripFlights` -> `reserve roundtrip flights`"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def dialogue_tasks(dialogues: list[dict]) -> list[LabelledTask]:
    """Return tasks on dialogues: intents, services and acts."""
    intents: list[Row] = []
    services: list[Row] = []
    replies: list[Row] = []
    acts: list[Row] = []
    for dialogue in dialogues:
        intents.extend(intent_rows(dialogue))
        names = {service.split("_")[0] for service in dialogue["services"]}
        system = [text for speaker, text in dialogue["turns"] if speaker == "system" and len(text) > 40]
        acts.extend((text, classify_act(text)) for text in system[::3])
        if len(names) == 1:
            replies.extend((text, split_camel_case(min(names))) for text in system[:4])
            opening = " ".join(text for speaker, text in dialogue["turns"][:3] if speaker == "user")
            services.append((opening, split_camel_case(min(names))))
    return [
        LabelledTask("intent", intents, share=5.0),
        LabelledTask("service", services, share=2.0),
        LabelledTask("service of a reply", replies, share=1.0),
        LabelledTask("act", acts, share=0.2),
    ]


def intent_rows(dialogue: dict) -> list[Row]:
    """Return user turns that start a new intent and are long enough to show it."""
    rows, previous_intents = [], None
    for (speaker, text), intents in zip(dialogue["turns"], dialogue["intents"], strict=True):
        if speaker == "user":
            is_clear = intents == ["NONE"] or len(text) >= 28
            if is_clear and intents != previous_intents and len(intents) == 1:
                rows.append((text, "goodbye" if intents == ["NONE"] else split_camel_case(intents[0])))
            previous_intents = intents
    return rows


def classify_act(text: str) -> str:
    """Return what a turn does: confirm, question or inform."""
    if "confirm" in text.lower() or "correct?" in text.lower():
        return "confirm"
    return "question" if text.rstrip().endswith("?") else "inform"


# ---- opinions and feelings


def opinion_tasks(data: Path, rng: random.Random) -> list[LabelledTask]:
    """Return tasks on opinions and feelings."""
    superni = sources.read_instructions(data)
    tweets = superni["sentiment140_classification"][1]
    films = [
        (sources.tidy(x), "positive" if y == "POS" else "negative")
        for x, y in superni["sst2_polarity_classification"][1]
    ]
    emotions = [(sources.tidy(x), y) for x, y in superni["emotion_classification"][1]]
    sentences = [(x, y) for y, rows in sources.read_film_sentences(data).items() for x in rows]
    remarks = [(x, y) for y, rows in sources.read_product_remarks(data).items() for x in rows]
    # A task's share is how often it is drawn, so that a large corpus does not crowd out a small one.
    return [
        LabelledTask("film sentence", sentences + films, share=4.0),
        LabelledTask("product remark", remarks, share=2.5),
        LabelledTask("product review", joined_remarks(remarks, rng), share=1.0),
        LabelledTask("film review", review_windows(sources.read_film_reviews(data), rng), share=2.0),
        LabelledTask("tweet", tweets, share=0.5),
        LabelledTask("emotion", emotions, share=0.6),
        LabelledTask(
            "plot or opinion",
            [(x, y) for y, rows in sources.read_film_remarks(data).items() for x in rows],
            share=1.0,
        ),
        LabelledTask(
            "relation",
            [relation_row(*row) for row in superni["evalution_relation_extraction"][1]],
            share=0.2,
        ),
    ]


def joined_remarks(remarks: list[Row], rng: random.Random, count: int = 20_000) -> list[Row]:
    """Join two or three remarks of one opinion as sentences of one review."""
    grouped: dict[str, list[str]] = {}
    for text, label in remarks:
        grouped.setdefault(label, []).append(text)
    rows = []
    for _ in range(count):
        label = rng.choice(sorted(grouped))
        picks = [text.rstrip(".!, ") for text in rng.choices(grouped[label], k=rng.choice((2, 2, 3)))]
        rows.append((". ".join(pick[:1].upper() + pick[1:] for pick in picks) + rng.choice(".!"), label))
    return rows


def review_windows(reviews: dict[str, list[list[str]]], rng: random.Random) -> list[Row]:
    """Return pairs of neighbouring sentences of long reviews, including the last two, which hold the
    verdict."""
    rows = []
    for label, texts in reviews.items():
        for sentences in texts:
            starts = {
                max(0, len(sentences) - 2),
                *(rng.randrange(max(1, len(sentences) - 1)) for _ in range(5)),
            }
            rows.extend(
                (" ".join(sentences[start : start + 2])[:400], label) for start in sorted(starts)
            )
    return rows


def relation_row(text: str, answer: str) -> Row:
    """Return a text and the relation that the answer names."""
    words = answer.split()
    return text, words[1] if len(words) == 3 else words[-1]


# ---- who wrote it, in which language, in what kind of text


def writing_tasks(data: Path, rng: random.Random) -> list[LabelledTask]:
    """Return tasks on the author, the language and the kind of a text."""
    novels = {
        author: draw_excerpts(texts, 1200, rng) for author, texts in sources.read_novels(data).items()
    }
    verses = sources.read_scripture(data)
    kinds = {
        "novel": [text for texts in novels.values() for text in texts[:150]],
        "speech": draw_excerpts(sources.read_speeches(data), 1500, rng),
        "play": draw_excerpts(sources.read_plays(data), 1500, rng),
        "scripture": draw_excerpts(verses["english"], 800, rng),
        "film": [x for rows in sources.read_film_remarks(data).values() for x in rows[:700]],
    }
    return [
        LabelledTask("author", [(x, y) for y, rows in novels.items() for x in rows], share=0.6),
        LabelledTask(
            "language",
            [(x, y) for y, rows in verses.items() for x in draw_excerpts(rows, 800, rng)],
            share=0.15,
        ),
        LabelledTask("kind of text", [(x, y) for y, rows in kinds.items() for x in rows], share=0.3),
    ]


def draw_excerpts(texts: list[str], count: int, rng: random.Random) -> list[str]:
    """Draw one or two neighbouring sentences from random places, at most 240 characters."""
    pieces = []
    usable = [text for text in texts if len(text) > 30]
    for text in rng.choices(usable, k=count):
        sentences = re.split(r"(?<=[.!?])\s+", text)
        start = rng.randrange(len(sentences))
        piece = " ".join(sentences[start : start + 2])[:240].strip()
        if len(piece) > 20:
            pieces.append(piece)
    return pieces


# ---- word fields


def field_rows(rng: random.Random, count: int) -> list[Row]:
    """Return one or several words of a field in a neutral carrier sentence, labelled with the field."""
    fields = sources.read_word_fields()
    names = sorted(fields)
    rows = []
    for _ in range(count):
        name = rng.choice(names)
        carrier = rng.choice(CARRIERS)
        words = rng.sample(fields[name], k=carrier.count("{}"))
        text = carrier.format(*words)
        rows.append((text[:1].upper() + text[1:] if rng.random() < 0.5 else text, name))
    return rows
