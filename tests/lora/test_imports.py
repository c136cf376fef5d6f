"""Adapters of other programs: named when they cannot be read, and never costly."""

import json
import time

import pytest

from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import InvalidAdapter, TooLarge
from ouroboros.domain.weights import MAX_BYTES, AdapterFiles
from ouroboros.lora.peft_files import pack, unpack

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
CONFIG = json.dumps(PLAIN).encode()


MAX_SECONDS = 5.0
"""Of processor time, with checked types and on a busy machine; an idle one takes about a tenth. Without
limits each of these took a minute or more."""


def weights(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def entry(path: str, part: str, shape: list[int], start: int) -> str:
    size = 4 * shape[0] * shape[1]
    return (
        f'"base_model.model.{path}.lora_{part}.weight":'
        f'{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{start + size}]}}'
    )


@pytest.mark.parametrize("absent", [{}, {"base_model_name_or_path": None}])
def test_a_config_without_the_name_of_its_base_is_read(base, random_weights, absent):
    config = AdapterConfig(rank=2, alpha=4.0)
    files = pack(random_weights(config), config, base)
    document = json.loads(files.config)
    del document["base_model_name_or_path"]
    named = unpack(AdapterFiles(json.dumps(document | absent).encode(), files.weights), base)
    assert named.base_name == ""
    assert named.weights.keys() == random_weights(config).keys()


def test_an_adapter_of_mlx_is_recognised_by_name():
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0}, "num_layers": 16}
    with pytest.raises(InvalidAdapter, match="saved by MLX"):
        unpack(AdapterFiles(json.dumps(config).encode(), weights(b"{}")))


def test_an_adapter_of_llama_cpp_is_recognised_by_name():
    with pytest.raises(InvalidAdapter, match="GGUF"):
        unpack(AdapterFiles(CONFIG, b"GGUF\x03\0\0\0" + bytes(32)))


def test_an_adapter_on_the_head_is_refused_by_name(base):
    header = f"{{{entry('lm_head', 'A', [8, 32], 0)},{entry('lm_head', 'B', [40, 8], 1024)}}}"
    files = AdapterFiles(CONFIG, weights(header.encode(), bytes(1024 + 1280)))
    with pytest.raises(InvalidAdapter, match="adapts lm_head, the model's head, which is not adapted"):
        unpack(files, base)


def test_too_large_weights_are_told_with_their_size_and_the_rank_that_fits(base_of):
    base = base_of({"self_attn.q_proj": (4096, 4096)}, layers=4)
    parts, start = [], 0
    for n in range(4):
        for part, shape in (("A", [96, 4096]), ("B", [4096, 96])):
            parts.append(entry(f"model.layers.{n}.self_attn.q_proj", part, shape, start))
            start += 4 * 96 * 4096
    raw = weights(f"{{{','.join(parts)}}}".encode(), bytes(start))
    config = json.dumps(PLAIN | {"r": 96}).encode()
    with pytest.raises(TooLarge, match=f"has {len(raw):,} bytes.*On its 4 layers, rank 159 fits"):
        unpack(AdapterFiles(config, raw), base)
    assert len(unpack(AdapterFiles(config, raw), base, len(raw)).weights) == 4


HOSTILE = {
    "a tensor of a hundred thousand dimensions": weights(
        f'{{"a":{{"dtype":"F32","shape":[{",".join(["281474976710655"] * 65_000)}],'
        '"data_offsets":[0,4]}}'.encode(),
        bytes(4),
    ),
    "a path of half a million parts": weights(
        f"{{{entry('a.' * 500_000 + 'a', 'A', [1, 1], 0)}}}".encode(), bytes(4)
    ),
    "ten thousand tensors": weights(
        f"{{{','.join(entry(f'a.{n}', 'A', [1, 1], 4 * n) for n in range(9_000))}}}".encode(),
        bytes(36_000),
    ),
    "a header of brackets": weights(b"[" * (1 << 20)),
    "digits": weights(b'{"a":' + b"9" * 1_000_000 + b"}"),
    "zeros": bytes(MAX_BYTES),
}
CONFIGS = {
    "plain": CONFIG,
    "forty thousand names": json.dumps(
        PLAIN | {"rank_pattern": {f"name{n}": 4 for n in range(40_000)}}
    ).encode(),
    "expressions": json.dumps(
        PLAIN | {"rank_pattern": {f"(.*a{n})*(.*b)*x": 4 for n in range(1_000)}}
    ).encode(),
    "ten thousand modules": json.dumps(PLAIN | {"target_modules": ["q" * 90] * 10_000}).encode(),
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_import_costs_a_second_at_most(base, config, hostile):
    start = time.process_time()
    with pytest.raises((InvalidAdapter, TooLarge)):
        unpack(AdapterFiles(CONFIGS[config], HOSTILE[hostile]), base)
    assert time.process_time() - start < MAX_SECONDS
