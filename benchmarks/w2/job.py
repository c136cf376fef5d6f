"""The work that every arm is given: a model, rows, an adapter's shape and how to train it."""

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RANK, ALPHA, TARGETS = 8, 16, ("q_proj", "v_proj")
BATCH, SEED = 4, 0

SHAPE: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "vocab_size": 8192,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
"""A Llama of 24M random weights."""

SHAPES: dict[str, dict[str, Any]] = {
    "24m": SHAPE,
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    },
}
"""The second has the dimensions of Qwen2.5-0.5B."""


@dataclass(frozen=True)
class TrainerRun:
    """What to train. `work` is a folder for results; `rows` are pairs of prompt and output."""

    model: str
    rows: Sequence[tuple[str, str]]
    rate: float
    epochs: int
    work: str

    def plain(self) -> dict[str, Any]:
        """As JSON, for an arm in another process."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "TrainerRun":
        return cls(**{**plain, "rows": [(p, o) for p, o in plain["rows"]]})


def examples(count: int) -> list[tuple[str, str]]:
    """Messages of 15 to 110 words to a help desk, each with the name of a team; the same every time.

    A prompt ends in a colon and an output is one word, so that no tokenizer joins them.
    """
    chance = random.Random(SEED)
    return [_example(chance, chance.randint(15, 110)) for _ in range(count)]


def _example(chance: random.Random, words: int) -> tuple[str, str]:
    team = chance.choice(sorted(_TEAMS))
    text = [chance.choice(_TEAMS[team] if chance.random() < 0.3 else _WORDS) for _ in range(words)]
    return f"{' '.join(text)}\nteam:", team


def build_model(
    folder: str, small: bool, shape: str = "24m", context: int | None = None, chat: bool = False
) -> dict[str, Any]:
    """Write the random model and a byte-level tokenizer that knows the words into `folder`.

    A small one has two layers; `context` is given where it is not the shape's own; with `chat` the
    tokenizer has a template.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = _tokenizer()
    tokenizer.chat_template = _TEMPLATE if chat else None
    sizes = {**SHAPES[shape], "num_hidden_layers": 2} if small else SHAPES[shape]
    sizes = {**sizes, "max_position_embeddings": context} if context else sizes
    special: dict[str, Any] = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, **special, bos_token_id=None))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"folder": folder}


def plain_copy(source: str, folder: str) -> dict[str, Any]:
    """Write a model without its chat template into `folder`: then every arm sees the same token ids."""
    from transformers import AutoTokenizer

    shutil.copytree(source, folder)
    Path(folder, "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return {"folder": folder}


def encode_labelled(tokenizer: Any, prompt: str, output: str) -> tuple[list[int], list[int]]:
    """The ids of a prompt, and of its output with the end token."""
    after = tokenizer.encode(output, add_special_tokens=False)
    return tokenizer.encode(prompt), [*after, tokenizer.eos_token_id]


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|pad|>", "<|end|>"],
        show_progress=False,
    )
    plain.train_from_iterator([prompt + team for prompt, team in examples(400)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|end|>", pad_token="<|pad|>")


def folder_of(job: TrainerRun, arm: str) -> Path:
    """Where an arm saves its adapter."""
    return Path(job.work, "saved", arm)


_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_WORDS = (
    "the a my our your this that one two when where which since after before again still just only with "
    "from for about into over please could would should need want have had was were been is are not "
    "never today yesterday week month morning evening hello thanks team help look check wait write said "
    "answer found told tried asked bought opened closed started works stopped nothing everything page "
    "something number name day time people friend office home phone letter note first last new old small"
).split()
_TEAMS = {
    "billing": "invoice charge refund card paid price twice tax receipt balance account bank".split(),
    "delivery": "parcel courier late address door box shipped tracking lost street driver post".split(),
    "access": "password login code locked user email reset key session blocked sign browser".split(),
    "repairs": "broken screen noise battery screw warranty crack hot cable spare leak wheel".split(),
    "orders": "size colour cancel change basket stock item wrong missing return gift order".split(),
}
