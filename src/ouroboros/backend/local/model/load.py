"""Loading a base: a folder, a hub id or the bundled starter; never a pickle, never remote code."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from ouroboros.backend.local.cache.prefix_cache import DEFAULT_MAX_BYTES, PrefixCache
from ouroboros.backend.local.decoder import decoder
from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.decoder.functional import fused_attention_threshold
from ouroboros.backend.local.decoder.packed_attention import install_packed_attention
from ouroboros.backend.local.model.config_only import build_meta_model
from ouroboros.backend.local.model.dtype import compute_dtype
from ouroboros.backend.local.model.hub import check_hub
from ouroboros.backend.local.model.memory_plan import MemoryCosts
from ouroboros.backend.local.model.quantization import (
    BYTES_PER_WEIGHT,
    keep_differentiable,
    quantization_config,
)
from ouroboros.backend.local.model.tokenizer import ChatTokenizer, TokenizedPair
from ouroboros.backend.local.runtime.memory import count_weights, free_bytes, require_memory
from ouroboros.backend.local.runtime.threads import Threads
from ouroboros.domain.base_model import BaseModel, Fingerprint
from ouroboros.domain.errors import InvalidConfig, ModelError
from ouroboros.lora.bank import Bank
from ouroboros.lora.inject import freeze, linear_shapes
from ouroboros.models.digests import weights_digest
from ouroboros.models.folder_check import check_config_file, check_weight_files
from ouroboros.models.resolve import STARTER, resolve_model

_UNHASHED_CONFIG_KEYS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True)
class BaseRuntime:
    """A base in memory: frozen, with a bank that adapts its layers as each call asks.

    said  the logits [T, V] of the T output tokens of sequences whose drift is asked.
    """

    base: BaseModel
    model: PreTrainedModel
    tokenizer: ChatTokenizer
    bank: Bank
    prefix_cache: PrefixCache = field(default_factory=PrefixCache)
    threads: Threads = field(default_factory=Threads)
    base_logits_cache: dict[TokenizedPair, Tensor] = field(default_factory=dict)
    _squared_norms: dict[str, float] = field(default_factory=dict)

    def squared_norm(self, path: str) -> float:
        """The squared Frobenius norm of a layer's weights."""
        if path not in self._squared_norms:
            weight = self.model.get_submodule(path).weight
            self._squared_norms[path] = float(weight.float().square().sum())  # type: ignore[union-attr]
        return self._squared_norms[path]

    @property
    def device(self) -> torch.device:
        """The device that holds the base model's weights."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the base model computes in."""
        return self.model.dtype

    @cached_property
    def decoder(self) -> Decoder | None:
        """Our own passes over the model's layers, where they are of the kind that it knows."""
        is_supported = self.base.architecture in decoder.ARCHITECTURES
        quantized = getattr(self.model, "is_quantized", False)
        return Decoder(self.model) if is_supported and not quantized else None

    @cached_property
    def memory_costs(self) -> MemoryCosts:
        """What work on it takes of memory."""
        config = self.model.config.get_text_config()
        fused = None if self.decoder is None else fused_attention_threshold(self.device)
        return MemoryCosts.estimate(self.base, config, self.dtype.itemsize, fused)

    @property
    def free_bytes(self) -> int | None:
        """Bytes of its device that can be had now; None where nobody tells."""
        return free_bytes(self.device)

    @property
    def preferred_tokens(self) -> int:
        """Tokens per pass: enough to keep the processor busy, few enough that attention between packed
        rows (quadratic) and the logits (one vocabulary per token) stay small."""
        return max(256, min(4 * self.base.width, 4096, 2**28 // self.base.fingerprint.vocabulary))

    @property
    def token_budget(self) -> int:
        """Tokens per pass without gradients: as many as help, and as half of the free memory holds."""
        free, preferred = self.free_bytes, self.preferred_tokens
        return (
            preferred
            if free is None
            else max(64, min(preferred, int(free / 2 / self.memory_costs.inference_token_bytes())))
        )


def load_base(
    name: str,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str = "none",
    prefix_cache_bytes: int = DEFAULT_MAX_BYTES,
) -> BaseRuntime:
    """Load `name` frozen, in `dtype`, on `device`.

    `name` is "starter", "smollm2", a folder, a GGUF file or a hub id.

    `quantize` keeps its linear layers in fewer bits (see `quantized`). What it makes of prompts that
    adapters leave to it is kept, within `prefix_cache_bytes`.

    Raises `ModelError` when there is no such model, when it has no tokenizer or pickled weights only;
    `OutOfMemory` when it is too large for the free memory, before any of it is read or fetched.
    """
    source = resolve_model(name)
    target = _resolve_device(device)
    compute = compute_dtype(dtype, target)
    quantization = quantization_config(quantize, compute)
    if _is_local_path(source):
        _check_folder(Path(source))
        weight_total = count_weights(_weight_files(source))
    else:
        check_hub(source, STARTER)
        weight_total = build_meta_model(source).num_parameters()
    require_memory(
        f"The base model {name!r}",
        int(weight_total * BYTES_PER_WEIGHT.get(quantize, compute.itemsize)),
        free_bytes(target),
        'Use dtype "bfloat16", quantize it, close other programs, or take a smaller model.',
    )
    transformers_logging.disable_progress_bar()
    hashing = ThreadPoolExecutor(1)
    try:
        # The files of a folder are there already; those of a hub id come with the model.
        early = hashing.submit(_weights_digest, source) if Path(source).is_dir() else None
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=compute,
            quantization_config=quantization,
            device_map=None if quantization is None else {"": target},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, report = loaded
        weights_sha256 = early.result() if early else _weights_digest(source)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"The base model {name!r} cannot be loaded: {_first_line(error)}",
            hint="Give a Hugging Face causal language model with safetensors weights: folder or id.",
        ) from error
    finally:
        hashing.shutdown(wait=False, cancel_futures=True)
    _check_complete(name, report)
    rows = _check_embedding_rows(name, model, tokenizer)
    if quantization is None:
        model.to(target)  # type: ignore[arg-type]  # the stub knows no torch.device
    keep_differentiable(model)
    freeze(model)
    install_packed_attention(model)
    chat_tokenizer = ChatTokenizer(tokenizer, _end_ids(model), context_length(model), rows)
    base = _describe_loaded(name, weights_sha256, model, chat_tokenizer)
    return BaseRuntime(base, model, chat_tokenizer, Bank(), PrefixCache(prefix_cache_bytes))


def _check_complete(name: str, report: dict[str, Any]) -> None:
    """Refuse weights that do not fill the model: transformers would start the rest at random."""
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise ModelError(
            f"The base model {name!r} is not whole: {len(missing)} of its tensors are in no weight file,"
            f" {missing[0]} among them.",
            hint="Fetch the model again; every *.safetensors file of it is needed.",
        )


def _check_embedding_rows(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The rows of the embedding; refuse a tokenizer whose ordinary tokens have ids beyond them.

    Some published tokenizers have special tokens beyond the rows, for images for example. They are
    accepted, and `ChatTokenizer` refuses text that holds one.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[arg-type,union-attr]
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    beyond = {t: i for t, i in tokenizer.get_vocab().items() if i >= rows and t not in special}
    if beyond:
        token, index = max(beyond.items(), key=lambda item: item[1])
        raise ModelError(
            f"The tokenizer of {name!r} does not fit the model: it has the token {token!r} with the id"
            f" {index:,}, and the model has {rows:,} embedding rows.",
            hint="Give the tokenizer that the model was trained with.",
        )
    return rows


def _resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdecimal())):
        raise InvalidConfig(f"device is {name!r}.", hint='Use "auto", "cpu", "cuda" or "cuda:1".')
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError("No CUDA device is available.", hint='Use device "auto" or "cpu".')
    if number and int(number) >= torch.cuda.device_count():
        raise ModelError(
            f"There is no device {name}; this machine has {torch.cuda.device_count()}.",
            hint="The first one is cuda:0.",
        )
    return torch.device(name)


def _is_local_path(source: str) -> bool:
    """A hub id is `name` or `owner/name`; anything else is a path."""
    path = Path(source)
    return path.exists() or path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"There is no model folder at {folder}.", hint="Check the path.")
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no config.json.",
            hint="Give the folder of a Hugging Face causal language model.",
        )
    # Pickled weights can run code when they are read, so they are refused by name.
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.glob("*.bin")) or sorted(
            p.name for p in folder.glob("*.pt*")
        )
        if pickled:
            raise ModelError(
                f"{folder} has pickled weights only ({pickled[0]}); loading those can run any code.",
                hint="Convert them once, where you trust them: model.save_pretrained(folder).",
            )
        raise ModelError(
            f"{folder} holds no *.safetensors weights.", hint="Save the model's weights there."
        )
    if not any((folder / f).is_file() for f in _TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer.", hint="Save it there: tokenizer.save_pretrained(folder)."
        )
    check_config_file(folder)
    check_weight_files(folder)


def _end_ids(model: PreTrainedModel) -> list[int]:
    """The ids that the model's own generation settings end an answer with."""
    end_ids = model.generation_config.eos_token_id if model.generation_config else None
    return [end_ids] if isinstance(end_ids, int) else list(end_ids or [])


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _describe_loaded(
    name: str, weights_sha256: str, model: PreTrainedModel, tokenizer: ChatTokenizer
) -> BaseModel:
    config, hf_tokenizer = model.config.get_text_config(), tokenizer.hf_tokenizer
    return BaseModel(
        name=name,
        fingerprint=Fingerprint(
            config=_digest_json(
                {k: v for k, v in model.config.to_dict().items() if k not in _UNHASHED_CONFIG_KEYS}
            ),
            tokenizer=_digest_json(_tokenizer_state(hf_tokenizer)),
            template=_digest_json(hf_tokenizer.chat_template or ""),
            weights=weights_sha256,
            vocabulary=len(hf_tokenizer),
        ),
        architecture=config.model_type,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        context=tokenizer.context,
        parameters=model.num_parameters(),
        linears=linear_shapes(model),
        heads=config.num_attention_heads,
        invocation_tokens=tokenizer.invocation_tokens,
        has_dated_prompts="strftime_now" in str(hf_tokenizer.chat_template or ""),
    )


def context_length(model: PreTrainedModel) -> int:
    """Returns the most tokens the model reads at once; 2^20 if its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """The vocabulary, the special tokens and, for fast tokenizers, the whole pipeline."""
    state: dict[str, object] = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": {k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items())},
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        pipeline = json.loads(backend.to_str())
        state["pipeline"] = {k: v for k, v in pipeline.items() if k not in ("padding", "truncation")}
    return state


def _digest_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _weights_digest(source: str) -> str:
    """Over the whole content of every weight file."""
    return weights_digest(_weight_files(source))


def _weight_files(source: str) -> list[Path]:
    """The safetensors files of a folder or of a hub id's local snapshot."""
    folder = Path(source)
    if not folder.is_dir():
        config = cached_file(source, "config.json", local_files_only=True)
        folder = Path(str(config)).parent
    return sorted(folder.glob("*.safetensors"))
