"""The training mix: documents drawn from the corpora, packed into fixed blocks of tokens.

A document is a string with the chat's special tokens inside. Five kinds, by share of draws:

    single    one labelled row with its natural label: what an adapter will have to tell apart
    pack      several rows of one task as one conversation, labels often renamed to arbitrary words
    dialogue  a conversation, the system's turns as the assistant's
    task      instruction, input, free-text answer
    prose     plain text, for the words themselves; it also fills the ends of blocks
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ouroboros.starter.make import sources
from ouroboros.starter.make.tasks import LabelledTask, build_tasks
from ouroboros.starter.make.tokenizer import ASSISTANT, END, SYSTEM, USER

ANSWER_WEIGHT, QUESTION_WEIGHT = 4.0, 0.5
CANDIDATE_COUNT = 64  # documents from which the next one that fits is chosen
FREE_ANSWERS = (
    "answer_generation",
    "generate_next",
    "summar",
    "text_generation",
    "cause_event",
    "utterance",
    "outcome",
)
MARKS_PATTERN = re.compile("|".join(re.escape(mark) for mark in (USER, ASSISTANT, SYSTEM, END)))
DRAW_WEIGHTS = {"single": 60.0, "pack": 0.8, "dialogue": 1.0, "task": 0.8, "list": 4.0, "prose": 0.6}


@dataclass(frozen=True)
class TokenBlocks:
    """tokens, weights (how much predicting that token counts), documents (an id each): all [N, T]."""

    tokens: np.ndarray
    weights: np.ndarray
    documents: np.ndarray


def render_chat(turns: list[tuple[str, str]], system: str = "") -> str:
    """Render the model's chat template directly, for speed."""
    head = SYSTEM + system if system else ""
    return head + "".join(f"{USER}{question}{ASSISTANT}{answer}{END}" for question, answer in turns)


class Corpus:
    """Draws shards of blocks. A shard depends only on the seed and its number."""

    def __init__(self, data: Path, seed: int = 0) -> None:
        rng = random.Random(seed)
        self.seed = seed
        self.tasks = build_tasks(data, rng)
        self.grouped = {task.name: task.by_label for task in self.tasks}
        self.labels = {name: labels_and_weights(grouped) for name, grouped in self.grouped.items()}
        self.shares = [task.share for task in self.tasks]
        self.dialogues = sources.read_dialogues(data)
        self.free = [
            (instruction, rows)
            for name, (instruction, rows) in sources.read_instructions(data).items()
            if any(part in name for part in FREE_ANSWERS)
        ]
        self.fields = sources.read_word_fields()
        self.prose_sources = load_prose_sources(data)
        self.code_words = [word for words in self.fields.values() for word in words if word.isalpha()]

    def shard(self, number: int, tokenizer: Tokenizer, blocks: int, length: int) -> TokenBlocks:
        """Return shard `number`: `blocks` blocks of `length` tokens."""
        rng = random.Random(self.seed * 1_000_003 + number + 1)
        return pack_blocks(
            encode_documents(self.draw_documents(rng), tokenizer),
            encode_documents(self.draw_prose(rng), tokenizer),
            tokenizer,
            blocks,
            length,
            rng,
        )

    def sample_texts(self, count: int) -> list[str]:
        """Return documents without the chat's special tokens, to train the tokenizer on."""
        documents = self.draw_documents(random.Random(self.seed))
        return [text for _ in range(count) for text in MARKS_PATTERN.split(next(documents)) if text]

    def draw_documents(self, rng: random.Random) -> Iterator[str]:
        """Draw documents without end, each kind by its weight."""
        kinds = {
            "single": self.draw_single_row, "pack": self.draw_pack, "dialogue": self.draw_dialogue,
            "task": self.draw_free_task, "list": self.draw_word_list,
            "prose": lambda rng: next(self.draw_prose(rng)),
        }  # fmt: skip
        while True:
            kind = rng.choices(list(DRAW_WEIGHTS), weights=list(DRAW_WEIGHTS.values()))[0]
            yield kinds[kind](rng)

    # ---- kinds of document

    def draw_task(self, rng: random.Random) -> LabelledTask:
        """Draw a labelled task by its share."""
        return rng.choices(self.tasks, weights=self.shares)[0]

    def draw_single_row(self, rng: random.Random) -> str:
        """Render one row of a task as a chat."""
        task = self.draw_task(rng)
        label = rng.choices(*self.labels[task.name])[0]
        return render_chat([(vary_spelling(rng.choice(self.grouped[task.name][label]), rng), label)])

    def draw_pack(self, rng: random.Random) -> str:
        """Render rows of one task with balanced classes, at most about 240 tokens by text length."""
        grouped = self.grouped[self.draw_task(rng).name]
        labels = rng.sample(sorted(grouped), k=min(len(grouped), rng.choice((2, 2, 3, 3, 4, 5, 6))))
        names = self.rename_labels(labels, rng)
        turns, letters = [], 0
        while letters < 820:
            label = rng.choice(labels)
            text = vary_spelling(rng.choice(grouped[label]), rng)
            letters += len(text) + 12
            turns.append((text, names[label]))
        return render_chat(turns[:-1] or turns)

    def rename_labels(self, labels: list[str], rng: random.Random) -> dict[str, str]:
        """Map the labels to themselves, to another spelling, to arbitrary words or to codes."""
        style = rng.choice(("plain", "plain", "title", "snake", "upper", "word", "code", "letter"))
        if style == "word":
            return dict(zip(labels, rng.sample(self.code_words, k=len(labels)), strict=True))
        if style == "code":
            letter = rng.choice("ABCKQRTXZ")
            numbers = rng.sample(range(1, 60), len(labels))
            return {label: f"{letter}{number}" for label, number in zip(labels, numbers, strict=True)}
        if style == "letter":
            return dict(zip(labels, rng.sample("ABCDEFGHIJKLMNOP", k=len(labels)), strict=True))
        change_case = {
            "plain": str,
            "title": str.title,
            "snake": lambda x: x.replace(" ", "_"),
            "upper": str.upper,
        }[style]
        return {label: change_case(label) for label in labels}

    def draw_dialogue(self, rng: random.Random) -> str:
        """Render up to eight turns of a dialogue."""
        turns = rng.choice(self.dialogues)["turns"]
        start = rng.randrange(0, max(1, len(turns) - 6), 2)
        marks = {"user": (USER, ""), "system": (ASSISTANT, END)}
        return "".join(marks[who][0] + text + marks[who][1] for who, text in turns[start : start + 8])

    def draw_free_task(self, rng: random.Random) -> str:
        """Render one row of a task with free answers, half the time with its instruction."""
        instruction, rows = rng.choice(self.free)
        question, answer = rng.choice(rows)
        system = instruction.split(". ")[0] if rng.random() < 0.5 else ""
        return render_chat([(question[-700:], answer[:300])], system)

    def draw_word_list(self, rng: random.Random) -> str:
        """Render related words as a list: the co-occurrence that skip-gram learns from."""
        words = rng.choice(sorted(self.fields.values()))
        return ", ".join(rng.sample(words, k=min(len(words), rng.choice((6, 10, 16))))) + END

    def draw_prose(self, rng: random.Random) -> Iterator[str]:
        """Draw excerpts of plain text without end."""
        while True:
            texts = rng.choices(self.prose_sources, weights=[share for _, share in self.prose_sources])[
                0
            ][0]
            start = rng.randrange(len(texts))
            yield "\n".join(texts[start : start + 12])[:1500] + END


def load_prose_sources(data: Path) -> list[tuple[list[str], float]]:
    """Return (paragraphs in order, share) for every plain-text source."""
    novels = [(texts, 0.5 / 15) for texts in sources.read_novels(data).values()]
    reviews = [" ".join(review) for rows in sources.read_film_reviews(data).values() for review in rows]
    superni = sources.read_instructions(data)
    news = [f"{text}\n{summary}" for text, summary in superni["xsum_summarization"][1]]
    passages = [text for text, _ in superni["quoref_answer_generation"][1][::5]]
    return [
        *novels,
        ([review[:1500] for review in reviews], 0.2),
        (news, 0.2),
        (passages, 0.05),
        (sources.read_speeches(data), 0.05),
        (sources.read_plays(data), 0.03),
        (sources.read_scripture(data)["english"], 0.02),
    ]


def labels_and_weights(grouped: dict[str, list[str]]) -> tuple[list[str], list[float]]:
    """Return labels and weights: the square root of the count, between natural and uniform."""
    labels = sorted(grouped)
    return labels, [len(grouped[label]) ** 0.5 for label in labels]


def vary_spelling(text: str, rng: random.Random) -> str:
    """Sometimes lower the case or drop the last full stop, as people do when they type."""
    chance = rng.random()
    if chance < 0.15:
        return text.lower()
    return text.rstrip(".") if chance < 0.3 else text


# ---- from documents to blocks


def encode_documents(
    documents: Iterator[str], tokenizer: Tokenizer, batch: int = 256
) -> Iterator[list[int]]:
    """Yield token ids, encoded in batches, which the tokenizer runs in parallel."""
    while True:
        for encoding in tokenizer.encode_batch(
            [next(documents) for _ in range(batch)], add_special_tokens=False
        ):
            yield encoding.ids


def pack_blocks(
    documents: Iterator[list[int]],
    prose: Iterator[list[int]],
    tokenizer: Tokenizer,
    blocks: int,
    length: int,
    rng: random.Random,
) -> TokenBlocks:
    """Pack whole documents into blocks, fill the remaining space with prose, and shuffle the blocks."""
    tokens = np.zeros((blocks, length), np.int64)
    ids = np.zeros((blocks, length), np.int32)
    candidates = [next(documents)[:length] for _ in range(CANDIDATE_COUNT)]
    for block in range(blocks):
        filled = number = 0
        while filled < length:
            index = next(
                (n for n, document in enumerate(candidates) if len(document) <= length - filled), None
            )
            if index is None:
                piece = next(prose)[: length - filled]
            else:
                piece = candidates.pop(index)
                candidates.append(next(documents)[:length])
            tokens[block, filled : filled + len(piece)] = piece
            ids[block, filled : filled + len(piece)] = number
            filled, number = filled + len(piece), number + 1
    order = np.array(rng.sample(range(blocks), blocks))
    return TokenBlocks(tokens[order], token_weights(tokens[order], ids[order], tokenizer), ids[order])


def token_weights(tokens: np.ndarray, documents: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Return the weight of predicting each token [N, T].

    Answers count more and questions less; the first token of a document cannot be predicted.
    """
    user, assistant, end = (tokenizer.token_to_id(token) for token in (USER, ASSISTANT, END))
    weights = np.ones(tokens.shape, np.float32)
    mode = np.ones(tokens.shape[0], np.float32)
    for column in range(tokens.shape[1]):
        new = (
            np.ones(len(mode), bool) if column == 0 else documents[:, column] != documents[:, column - 1]
        )
        mode[new] = 1.0
        now = tokens[:, column]
        weights[:, column] = np.where(new | (now == user) | (now == assistant), 0.0, mode)
        mode = np.where(now == user, QUESTION_WEIGHT, np.where(now == assistant, ANSWER_WEIGHT, mode))
        mode = np.where(now == end, 0.0, mode).astype(np.float32)
    return weights
