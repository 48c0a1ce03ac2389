"""Let the `lerobot` package speak: how `vla/bench/golden/lerobot*` was made.

    python write_lerobot.py FOLDER   # in an environment with lerobot 0.6.1, transformers 5 and diffusers

Policies are made small on the way in, their weights are random and stored in half precision (rounded before anything is
computed); all else is the package's own.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from diffusers import DDPMScheduler  # pyright: ignore[reportMissingImports]
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature  # pyright: ignore[reportMissingImports]
from lerobot.policies.act.modeling_act import ACTTemporalEnsembler  # pyright: ignore[reportMissingImports]
from lerobot.policies.common.vla_utils import (  # pyright: ignore[reportMissingImports]
    create_sinusoidal_pos_embedding,
)
from lerobot.policies.pi0 import modeling_pi0  # pyright: ignore[reportMissingImports]
from lerobot.policies.pi0.configuration_pi0 import PI0Config  # pyright: ignore[reportMissingImports]
from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors  # pyright: ignore[reportMissingImports]
from lerobot.policies.rtc.configuration_rtc import (  # pyright: ignore[reportMissingImports]
    RTCAttentionSchedule,
    RTCConfig,
)
from lerobot.policies.rtc.modeling_rtc import RTCProcessor  # pyright: ignore[reportMissingImports]
from lerobot.policies.smolvla import smolvlm_with_expert  # pyright: ignore[reportMissingImports]
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig  # pyright: ignore[reportMissingImports]
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy  # pyright: ignore[reportMissingImports]
from lerobot.policies.smolvla.processor_smolvla import (  # pyright: ignore[reportMissingImports]
    make_smolvla_pre_post_processors,
)
from lerobot.processor import tokenizer_processor  # pyright: ignore[reportMissingImports]
from lerobot.processor.normalize_processor import (  # pyright: ignore[reportMissingImports]
    NormalizerProcessorStep,
    UnnormalizerProcessorStep,
)
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, SmolVLMConfig

TASKS = ["pick up the red cube", "open the drawer"]
JOINTS, WIDEST, HORIZON = 6, 8, 5
RESTS = 0.25  # where the last joint is, always
FEATURES = {
    "observation.images.front": PolicyFeature(type=FeatureType.VISUAL, shape=(3, 24, 32)),
    "observation.images.wrist": PolicyFeature(type=FeatureType.VISUAL, shape=(3, 20, 20)),
    "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(JOINTS,)),
}
ACTION = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(JOINTS,))}


def ensembling() -> dict[str, torch.Tensor]:
    """Chunks in, one action a step out."""
    chunks, ensembler = torch.randn(10, 6, 3), ACTTemporalEnsembler(0.01, 6)
    said = torch.cat([ensembler.update(chunk[None]) for chunk in chunks])
    return {"ensembling.chunks": chunks, "ensembling.actions": said}


def statistics(width: int) -> dict[str, torch.Tensor]:
    """Of a made-up dataset; the last joint never moves."""
    data = torch.randn(100, width) * torch.arange(1, width + 1) / 10 + 0.5
    data[:, -1] = RESTS
    quantiles = {name: data.quantile(share, 0) for name, share in dict(q01=0.01, q10=0.1, q90=0.9, q99=0.99).items()}
    return {"min": data.amin(0), "max": data.amax(0), "mean": data.mean(0), "std": data.std(0), **quantiles}


def normalisation() -> dict[str, torch.Tensor]:
    """The same values in every mode, and back."""
    stats, values = statistics(JOINTS), torch.randn(4, HORIZON, JOINTS)
    values[..., -1] = RESTS
    found = {f"normalisation.stats.{name}": value for name, value in stats.items()} | {"normalisation.values": values}
    for mode in NormalizationMode:
        arguments = {"features": ACTION, "norm_map": {FeatureType.ACTION: mode}, "stats": {"action": stats}}
        encode, decode = NormalizerProcessorStep(**arguments), UnnormalizerProcessorStep(**arguments)
        found[f"normalisation.encoded.{mode.value}"] = encode._normalize_action(values, inverse=False)
        found[f"normalisation.decoded.{mode.value}"] = decode._normalize_action(values, inverse=True)
    return {name: value.clone() for name, value in found.items()}


def waves() -> dict[str, torch.Tensor]:
    """The description of times."""
    times = torch.cat([torch.linspace(0, 1, 11), torch.rand(21)])
    described = create_sinusoidal_pos_embedding(times, 64, 4e-3, 4.0, times.device)
    return {"waves.times": times, "waves.described": described.float()}


def diffusion() -> dict[str, torch.Tensor]:
    """A chunk from noise, where the noise that a network would say is a known function of chunk and step."""
    steps = 20
    scheduler = DDPMScheduler(steps, beta_schedule="squaredcos_cap_v2", clip_sample=True, prediction_type="epsilon")
    noise = torch.randn(steps, 2, HORIZON, 3)
    chunk, generator = torch.randn(2, HORIZON, 3), SimpleNamespace(device=torch.device("cpu"))
    found = {"diffusion.betas": scheduler.betas, "diffusion.first": chunk.clone(), "diffusion.noise": noise}
    draw = sys.modules[DDPMScheduler.__module__]
    for step in scheduler.timesteps.tolist():
        draw.randn_tensor = lambda *_, now=noise[step], **__: now  # its own draws cannot be asked for by step
        chunk = scheduler.step(torch.tanh(1.5 * chunk + step / steps), step, chunk, generator=generator).prev_sample
    return found | {"diffusion.chunk": chunk}


def guidance() -> dict[str, torch.Tensor]:
    """Velocities led toward an older chunk, where the velocity of a network would be a known function."""
    generator = torch.Generator().manual_seed(0)
    noisy, older = torch.randn(2, 1, 10, 3, generator=generator)
    settings = RTCConfig(prefix_attention_schedule=RTCAttentionSchedule.EXP, max_guidance_weight=5.0)
    found = {"guidance.noisy": noisy, "guidance.older": older, "guidance.times": torch.tensor([1.0, 0.7, 0.4, 0.1])}
    more = {"inference_delay": 2, "execution_horizon": 6, "original_denoise_step_partial": torch.tanh}
    said = [RTCProcessor(settings).denoise_step(noisy, older, time=time, **more) for time in found["guidance.times"]]
    return found | {"guidance.velocities": torch.stack(said).detach()}


def tokenizer() -> PreTrainedTokenizerFast:
    """A few merges over bytes."""
    pairs = Tokenizer(models.BPE(unk_token="<unk>"))
    pairs.pre_tokenizer, pairs.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<unk>", "<pad>", "<s>", "</s>"]
    pairs.train_from_iterator(TASKS, trainers.BpeTrainer(vocab_size=40, special_tokens=special))
    names = {"image_token": "<image>", "fake_image_token": "<fake>", "global_image_token": "<global>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=pairs,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=names,
    )


def make_random(policy: torch.nn.Module) -> None:
    """Give every weight a part to play, in numbers that half precision can hold."""
    for weight in policy.parameters():
        size = weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.2
        weight.data = (weight.data * (weight.ndim == 1) + size * torch.randn_like(weight)).half().float()


def observation() -> dict:
    """Two frames of two cameras, with 8-bit pixels as the package hands them on: 0..1, channels first."""
    frames = {
        name: torch.randint(0, 256, (2, *feature.shape)) / 255
        for name, feature in FEATURES.items()
        if feature.type == FeatureType.VISUAL
    }
    state = 2 * torch.randn(2, JOINTS)
    state[:, -1] = RESTS
    return frames | {"observation.state": state, "task": list(TASKS)}


def ask(policy, prepare, processors, folder: Path) -> None:
    """Write the folder of a policy, and what it says about an observation."""
    preprocess, postprocess = processors
    policy.eval().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.half() for name, value in weights.items()}, folder / "model.safetensors")
    preprocess.save_pretrained(folder)
    postprocess.save_pretrained(folder)
    seen = observation()
    asked = {name: (value * 255).round().byte() for name, value in seen.items() if "images" in name}
    asked["observation.state"] = seen["observation.state"]
    batch = preprocess(dict(seen))
    ids, mask = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    images, there = prepare(dict(batch))
    state = policy.prepare_state(batch)
    noise, targets, time = torch.randn(2, HORIZON, WIDEST), torch.randn(2, HORIZON, WIDEST), torch.tensor([0.3, 0.9])
    velocities, velocity = [], policy.model.denoise_step
    policy.model.denoise_step = lambda **seen: velocities.append(velocity(**seen)) or velocities[-1]
    with torch.no_grad():
        error = policy.model.forward(images, there, ids, mask, state, targets, noise, time)
        chunk = policy.predict_action_chunk(dict(batch), noise=noise)
    said = {"noise": noise, "targets": targets, "time": time, "loss": error.mean((1, 2)), "velocity": velocities[0]}
    said |= {"chunk": chunk, "ids": ids, "mask": mask, "state": state, "actions": postprocess(chunk)}
    said |= {f"image{number}": image for number, image in enumerate(images)}
    tensors = {name: value.contiguous() for name, value in (asked | said).items()}
    save_file(tensors, folder / "said.safetensors", metadata={"tasks": json.dumps(TASKS)})


def sizes() -> dict:
    """What the configurations of both policies have in common."""
    return dict(
        input_features=dict(FEATURES),
        output_features=dict(ACTION),
        chunk_size=HORIZON,
        n_action_steps=HORIZON,
        max_state_dim=WIDEST,
        max_action_dim=WIDEST,
        device="cpu",
    )


def smolvla(folder: Path, words: PreTrainedTokenizerFast, mode: str) -> None:
    """A SmolVLA of two layers; the second looks at the language model only, or like the first at both ("self_attn")."""
    folder.mkdir()
    vision = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
    language = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)
    SmolVLMConfig(
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=True,
        vision_config=vision | dict(image_size=32, patch_size=8),
        text_config=language
        | dict(model_type="llama", vocab_size=len(words), num_key_value_heads=2, pad_token_id=words.pad_token_id),
    ).save_pretrained(folder / "vlm")
    words.save_pretrained(folder / "vlm")
    smolvlm_with_expert.AutoProcessor = SimpleNamespace(from_pretrained=lambda name: SimpleNamespace(tokenizer=words))
    os.chdir(folder)
    config = SmolVLAConfig(
        **sizes(), resize_imgs_with_padding=(32, 32), vlm_model_name="vlm", num_vlm_layers=2, attention_mode=mode
    )
    policy = SmolVLAPolicy(config)
    make_random(policy)
    stats = {"observation.state": statistics(JOINTS), "action": statistics(JOINTS)}
    ask(policy, policy.prepare_images, make_smolvla_pre_post_processors(config, stats), folder)


def pi0(folder: Path, words: PreTrainedTokenizerFast) -> None:
    """A pi0 of two layers with eight heads, as both variants of the package have."""
    folder.mkdir()
    words.save_pretrained(folder / "tokenizer")
    sizes = {"gemma_2b": (32, 48), "gemma_300m": (16, 24)}
    modeling_pi0.get_gemma_config = lambda name: modeling_pi0.GemmaConfig(*sizes[name][:1], 2, sizes[name][1], 8, 1, 4)
    whole, expert = modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma, modeling_pi0.PiGemmaForCausalLM

    def small(config):
        config.text_config.vocab_size = len(words)
        for name, value in dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, projection_dim=32).items():
            setattr(config.vision_config, name, value)
        return whole(config=config)

    def small_expert(config):
        config.vocab_size = 4
        return expert(config=config)

    modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma = small
    modeling_pi0.PiGemmaForCausalLM = small_expert
    tokenizer_processor.AutoTokenizer = SimpleNamespace(from_pretrained=lambda name: words)
    config = PI0Config(
        **sizes(),
        image_resolution=(28, 28),
        normalization_mapping={
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.QUANTILES,
            "ACTION": NormalizationMode.MIN_MAX,
        },
    )
    policy = modeling_pi0.PI0Policy(config)
    make_random(policy)
    stats = {"observation.state": statistics(JOINTS), "action": statistics(JOINTS)}
    ask(policy, policy._preprocess_images, make_pi0_pre_post_processors(config, stats), folder)


def main(out: str) -> None:
    """Write everything."""
    torch.manual_seed(0)
    root, words = Path(out).resolve(), tokenizer()
    root.mkdir(parents=True, exist_ok=True)
    parts = (ensembling(), normalisation(), waves(), diffusion(), guidance())
    save_file({name: value for part in parts for name, value in part.items()}, root / "lerobot.safetensors")
    smolvla(root / "lerobot-smolvla", words, "cross_attn")
    pi0(root / "lerobot-pi0", words)
    smolvla(root / "lerobot-smolvla-joint", words, "self_attn")


if __name__ == "__main__":
    main(sys.argv[1])
