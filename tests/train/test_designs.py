"""Every recipe of an encoder, a head, a connector or a fusion builds a policy that acts, and `vla train` trains it."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from tests.test_configs import CONFIGS
from tests.train.conftest import run
from vla.model import checkpoint
from vla.model.encoders import build_encoder
from vla.model.history import History
from vla.model.network import Network
from vla.model.policy import VLAPolicy
from vla.model.processor import Processor
from vla.model.vocabulary import ACTION_TOKENS, build_tokenizer
from vla.train.batches import Labels
from vla.train.designs import designs
from vla.types import Embodiment, Observation

PATHS = (path for path in CONFIGS.glob("recipe/*/*") if path.parent.name != "stages")
RECIPES = sorted(path.relative_to(CONFIGS / "recipe").with_suffix("").as_posix() for path in PATHS)
KINDS = {
    "encoders": {"fused", "history", "siglip", "clip", "dinov2", "vit", "convnext"},
    "connectors": {"linear", "mlp", "pixel_shuffle", "qformer", "instructed_qformer", "perceiver", "tiling", "pruned"},
    "fusion": {"prefix", "cross_attention", "flamingo", "early_fusion"},
    "heads": {"parallel", "autoregressive", "fast", "l1", "flow", "flow_insulated", "diffusion"},
}


SQUARES = ["model.cameras={front: [64, 64], wrist: [64, 64]}"]  # whose features come in blocks of four
FEW_PATCHES = ["model.vision.hidden_size=24", "model.vision.num_hidden_layers=1"]


def model_of(recipe):
    with initialize_config_module("configs", version_base="1.3"):
        config = compose("train", overrides=["out=OUT", f"recipe={recipe}"])
    return OmegaConf.to_container(config.model, resolve=True)


def blank(embodiment, state):
    sizes = {name: (camera.height, camera.width) for name, camera in embodiment.cameras.items()}
    return Observation({name: np.zeros((*size, 3), np.uint8) for name, size in sizes.items()}, state, "pick it", 0.0)


def test_there_is_a_recipe_for_every_name():
    names = {kind: {recipe.partition("/")[2] for recipe in RECIPES if recipe.startswith(kind)} for kind in KINDS}
    assert names == KINDS


@pytest.fixture(scope="module")
def labels(demonstrations):
    return Labels.read(demonstrations)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_changes_what_it_names_and_its_policy_acts(recipe, labels, demonstrations):
    model, plain = model_of(recipe), model_of("tabletop_cpu")
    changed = {key for key in model if model[key] != plain.get(key)}
    assert (
        changed & {"vision", "connector", "tiling", "fusion", "head", "keep", "history"}
        and "action_horizon" not in changed
    )
    embodiment = Embodiment.from_dict(demonstrations.info["vla"]["embodiment"])
    cameras = {name: tuple(size) for name, size in model["cameras"].items()}
    tokenizer = build_tokenizer(labels.texts())
    codec = labels.fit_codec(model["action_horizon"])
    history = History(**model["history"]) if "history" in model else None
    processor = Processor(embodiment, cameras, codec, tokenizer, model["max_text_tokens"], history=history)
    network = Network(
        vision=model["vision"],
        language=model["language"],
        cameras=model["cameras"],
        vocab_size=len(tokenizer),
        first_action_id=tokenizer.convert_tokens_to_ids(ACTION_TOKENS[0]),
        action_horizon=model["action_horizon"],
        action_dim=len(embodiment.joints),
        max_text_tokens=model["max_text_tokens"],
        **json.loads(json.dumps(designs(model, labels, codec))),
    )
    chunk = VLAPolicy(network, processor).act([blank(embodiment, labels.state[0])])[0]
    assert chunk.actions.shape == (16, 6) and np.isfinite(chunk.actions).all()


@pytest.mark.parametrize(
    "recipe, overrides",
    [
        ("heads/flow_insulated", ["model.head.expert.n_inner=32", "model.head.tokens.vocabulary=400"]),
        pytest.param("heads/flow", ["model.head.expert.n_inner=32"], marks=pytest.mark.slow),
        ("dual_encoder", ["init=null", "batch_size=16"]),
        ("encoders/vit", [*SQUARES, *FEW_PATCHES]),
        pytest.param("encoders/siglip", [*SQUARES, *FEW_PATCHES], marks=pytest.mark.slow),
        pytest.param("encoders/clip", [*SQUARES, *FEW_PATCHES], marks=pytest.mark.slow),
        pytest.param("encoders/dinov2", [*SQUARES, *FEW_PATCHES], marks=pytest.mark.slow),
        pytest.param("encoders/convnext", [*SQUARES], marks=pytest.mark.slow),
        ("encoders/history", []),
        ("fusion/early_fusion", [*SQUARES, "model.fusion.patch_size=16"]),
        pytest.param("encoders/fused", SQUARES, marks=pytest.mark.slow),
        pytest.param("connectors/pixel_shuffle", SQUARES, marks=pytest.mark.slow),
        pytest.param(
            "connectors/tiling", ["model.tiling.tile=32", "model.tiling.max_tokens=12"], marks=pytest.mark.slow
        ),
        pytest.param("connectors/instructed_qformer", ["+model.keep=20"], marks=pytest.mark.slow),
        pytest.param("connectors/pruned", ["model.keep=6"], marks=pytest.mark.slow),
        pytest.param("fusion/cross_attention", [], marks=pytest.mark.slow),
        pytest.param("heads/fast", ["model.head.vocabulary=400"], marks=pytest.mark.slow),
        pytest.param("heads/autoregressive", [], marks=pytest.mark.slow),
        pytest.param("heads/l1", [], marks=pytest.mark.slow),
        pytest.param("heads/diffusion", [], marks=pytest.mark.slow),
        pytest.param("connectors/qformer", [], marks=pytest.mark.slow),
        pytest.param("connectors/perceiver", [], marks=pytest.mark.slow),
    ],
)
def test_a_recipe_trains_resumes_and_leaves_a_checkpoint_that_acts(recipe, overrides, demonstrations, tmp_path):
    small = [f"recipe={recipe}", *overrides, "steps=4", "save_every=2", "warmup_steps=2"]
    begun = run(demonstrations, tmp_path, *small, "leg_minutes=0")
    assert begun["steps"] == 1 and not begun["complete"]
    result = run(demonstrations, tmp_path, *small)
    assert result["complete"] and np.isfinite(result["loss"])
    assert ("contrast" in result["losses"]) == (recipe == "dual_encoder")
    policy = checkpoint.load(tmp_path / "checkpoints" / "last")
    chunk = policy.act([blank(policy.embodiment, demonstrations.column("observation.state")[0])])[0]
    assert chunk.actions.shape == (16, 6) and np.isfinite(chunk.actions).all()


def test_flamingo_learns_to_look_with_an_encoder_and_a_language_model_that_stay_as_they_are(demonstrations, tmp_path):
    small = ["steps=3", "save_every=3", "warmup_steps=1", "store=float32"]
    flamingo = [*small, "recipe=fusion/flamingo", "model.connector.tokens=4"]
    with pytest.raises(ValueError, match=r"init=None: .* tensors of language have no equal there"):
        run(demonstrations, tmp_path / "drawn", *flamingo, "init=null", "rates.vision=1.0")
    run(demonstrations, tmp_path / "base", *small)
    base, out = tmp_path / "base/checkpoints/last", tmp_path / "flamingo"
    assert np.isfinite(run(demonstrations, out, *flamingo, f"init={base}")["loss"])
    policy = checkpoint.load(out / "checkpoints/last")
    before, after = (one.network.state_dict() for one in (checkpoint.load(base), policy))
    kept = [name for name in before if name.startswith(("vision.encoder.", "language.")) and ".wte." not in name]
    kept = [name for name in kept if "lm_head" not in name]  # the same table as wte
    for name in kept:
        torch.testing.assert_close(after[name], before[name], msg=name)
    assert len(kept) > 30 and not torch.equal(*(one["language.transformer.wte.weight"] for one in (before, after)))
    assert all(look.attention_gate != 0 for look in policy.network.cross.looks.values())
    chunk = policy.act([blank(policy.embodiment, demonstrations.column("observation.state")[0])])[0]
    assert chunk.actions.shape == (16, 6) and np.isfinite(chunk.actions).all()


@pytest.mark.slow
def test_real_weights_go_where_a_small_encoder_was(demonstrations, tmp_path):
    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / "vision/vit.yaml"))
    weights = build_encoder(**{name: value for name, value in config.items() if name != "patches_only"})
    weights.save_pretrained(tmp_path / "weights")
    real = ["vision@model.vision=pretrained", f"model.vision.pretrained={tmp_path / 'weights'}", "rates.vision=0.0"]
    small = ["steps=1", "save_every=1", "warmup_steps=1", "store=float32", *SQUARES]
    run(demonstrations, tmp_path / "run", "recipe=encoders/vit", *small, *real)
    policy = checkpoint.load(tmp_path / "run/checkpoints/last")
    mine, theirs = policy.network.vision.encoder.state_dict(), weights.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs) and mine.keys() == theirs.keys()
