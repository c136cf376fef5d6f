"""Readers of the corpora: plain Python values, normalised to ordinary English typing."""

import gzip
import html
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

SPACED_PUNCTUATION = re.compile(r"\s+([,.;:!?%)\]]|n't\b|'(?:s|re|ve|ll|d|m)\b)")
LONE_I = re.compile(r"\bi\b")
SENTENCE_START = re.compile(r"(^|[.!?]\s+)([a-z])")


def tidy(text: str) -> str:
    """Undo tokenised, lower-cased spelling: `it 's fine , i think .` -> `It's fine, I think.`"""
    text = SPACED_PUNCTUATION.sub(r"\1", re.sub(r"\s+", " ", text.strip()))
    text = (
        text.replace("( ", "(")
        .replace("-lrb-", "(")
        .replace("-rrb-", ")")
        .replace("[", "")
        .replace("]", "")
    )
    return SENTENCE_START.sub(lambda m: m[1] + m[2].upper(), LONE_I.sub("I", text))


def read_zip(path: Path, suffix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each member of a zip whose name ends with `suffix`."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(suffix) and not name.endswith(
                ("/", "README", "README.txt", ".dtd", ".css")
            ):
                yield name, archive.read(name).decode("utf-8", errors="replace")


def nonempty_lines(text: str) -> list[str]:
    """Return the lines that are not blank, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_dialogues(data: Path) -> list[dict]:
    """Schema-Guided Dialogue: services, turns [[speaker, text]], intents per turn."""
    with gzip.open(data / "sgd" / "dialogues.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_novels(data: Path) -> dict[str, list[str]]:
    """Author -> paragraphs."""
    books: dict[str, list[str]] = {}
    for path in sorted((data / "ebooks").glob("*_*.txt")):
        author = path.stem.split("_")[0].split("-")[-1]
        books.setdefault(author, []).extend(nonempty_lines(path.read_text(encoding="utf-8")))
    return books


def read_speeches(data: Path) -> list[str]:
    """Return the lines of American presidents' speeches."""
    names = ("state_union", "inaugural")
    return [
        line
        for name in names
        for _, text in read_zip(data / "text" / f"{name}.zip", ".txt")
        for line in nonempty_lines(text)
    ]


def read_plays(data: Path) -> list[str]:
    """Return one string per speech, its lines joined."""
    passages = []
    for _, text in read_zip(data / "text" / "shakespeare.zip", ".xml"):
        for speech in re.findall(r"<SPEECH>(.*?)</SPEECH>", text, flags=re.DOTALL):
            passages.append(" ".join(re.findall(r"<LINE>(.*?)</LINE>", speech)))
    return [re.sub(r"<.*?>", "", speech) for speech in passages if speech]


def read_scripture(data: Path) -> dict[str, list[str]]:
    """Language -> verses of Genesis."""
    languages = ("english", "finnish", "french", "german", "portuguese", "swedish")
    verses: dict[str, list[str]] = {}
    with zipfile.ZipFile(data / "text" / "genesis.zip") as archive:
        for name in sorted(archive.namelist()):
            language = next((known for known in languages if known in name), None)
            if language:
                raw = archive.read(name).decode("latin-1")
                verses.setdefault(language, []).extend(nonempty_lines(html.unescape(raw)))
    return verses


def read_film_sentences(data: Path) -> dict[str, list[str]]:
    """positive / negative -> single sentences of film reviews."""
    texts = dict(read_zip(data / "text" / "sentence_polarity.zip"))
    return {
        "negative": [tidy(x) for x in nonempty_lines(texts["sentence_polarity/rt-polarity.neg"])],
        "positive": [tidy(x) for x in nonempty_lines(texts["sentence_polarity/rt-polarity.pos"])],
    }


def read_product_remarks(data: Path) -> dict[str, list[str]]:
    """positive / negative -> short pros and cons of products."""
    texts = dict(read_zip(data / "text" / "pros_cons.zip"))
    remarks = {
        label: re.findall(
            rf"<{tag}>(.*?)</{tag}>", html.unescape(texts[f"pros_cons/Integrated{tag}.txt"])
        )
        for label, tag in (("positive", "Pros"), ("negative", "Cons"))
    }
    return {
        label: [re.sub(r"\s+", " ", x).strip() for x in rows if len(x) > 5]
        for label, rows in remarks.items()
    }


def read_film_reviews(data: Path) -> dict[str, list[list[str]]]:
    """positive / negative -> reviews, each a list of sentences."""
    reviews: dict[str, list[list[str]]] = {"negative": [], "positive": []}
    for name, text in read_zip(data / "text" / "movie_reviews.zip", ".txt"):
        label = "negative" if "/neg/" in name else "positive"
        reviews[label].append([tidy(line) for line in nonempty_lines(text)])
    return reviews


def read_film_remarks(data: Path) -> dict[str, list[str]]:
    """objective (plots) / subjective (opinions) -> sentences."""
    texts = dict(read_zip(data / "text" / "subjectivity.zip"))
    plots = next(text for name, text in texts.items() if "plot" in name)
    quotes = next(text for name, text in texts.items() if "quote" in name)
    return {
        "plot": [tidy(x) for x in nonempty_lines(plots)],
        "opinion": [tidy(x) for x in nonempty_lines(quotes)],
    }


def read_instructions(data: Path) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Task name -> (instruction, rows). Only train.json: some dev and test files are the same file."""
    tasks = {}
    for path in sorted((data / "superni_cl").glob("*/train.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        definition = content["Definition"]
        instruction = definition if isinstance(definition, str) else definition[0]
        rows = [(row["input"].strip(), first_output(row["output"])) for row in content["Instances"]]
        tasks[path.parent.name.split("_", 1)[1]] = (instruction, rows)
    return tasks


def first_output(output: str | list[str]) -> str:
    """Return the output, or the first of several, stripped."""
    return (output if isinstance(output, str) else output[0]).strip()


def read_word_fields() -> dict[str, list[str]]:
    """Our own word fields (`fields.txt`): everyday topics and the words that belong to them."""
    fields = {}
    for line in nonempty_lines((Path(__file__).parent / "fields.txt").read_text(encoding="utf-8")):
        name, _, words = line.partition(":")
        fields[name.strip()] = [word.strip() for word in words.split(",") if word.strip()]
    return fields
