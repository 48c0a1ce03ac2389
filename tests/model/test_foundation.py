"""What stands on pretrained weights: adapters beside them, new words behind theirs, a checkpoint that names them."""

import json
import shutil

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from tests.model.pretrained import SENTENCES, save_encoder, save_language_model, save_tokenizer
from tests.model.tiny import CAMERAS, observation, tiny_config, tiny_processor
from vla.model import checkpoint
from vla.model.encoders import build_encoder
from vla.model.foundation import Foundation, to_store
from vla.model.network import Network
from vla.model.policy import VLAPolicy
from vla.model.processor import Processor
from vla.model.vocabulary import ACTION_TOKENS, LOCATION_TOKENS, pretrained_tokenizer, words_of
from vla.train.optimizer import Average
from vla.train.stages import prepare

LORA = {"parts": ["vision", "language"], "rank": 4, "alpha": 8}
COLOURS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    return {
        "vision": save_encoder(root / "vision"),
        "language": save_language_model(root / "language"),
        "untied": save_language_model(root / "untied", tied=False),
    }


def built(folders, language="language", vision=None):
    """Return a policy on pretrained parts, and how it was built."""
    tokenizer = pretrained_tokenizer(str(folders[language]))
    plain = tiny_processor()
    taught = frozenset(word for text in SENTENCES for word in words_of(text))
    cameras = {name: (28, 28) for name in CAMERAS}
    processor = Processor(plain.embodiment, cameras, plain.codec, tokenizer, 32, taught=taught)
    config = tiny_config(tokenizer) | {
        "vision": vision or {"pretrained": str(folders["vision"]), "patches_only": True, **COLOURS},
        "language": {"pretrained": str(folders[language]), "num_hidden_layers": 1},
        "cameras": {name: list(size) for name, size in cameras.items()},
        "connector": {"name": "pixel_shuffle", "factor": 2},
    }
    torch.manual_seed(3)
    network = Network(**config)
    return VLAPolicy(network, processor), config


def trained(policy, config, rates=None, lora=LORA):
    """Prepare as training does and change everything that may change; return what is to be stored."""
    network = policy.network
    foundation = Foundation.of(network, config)
    prepare(network, rates or {}, lora)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    network.vision.memory = None  # which remembers what frames looked like before
    return to_store(network, Average(network, 0.9).weights, config, foundation)


def chunk(policy):
    return policy.act([observation()])[0].actions


@pytest.mark.parametrize("language", ["language", "untied"])
def test_adapters_are_stored_beside_the_base_and_act_the_same(folders, language, tmp_path):
    policy, config = built(folders, language)
    before = chunk(policy)
    build, weights, base = trained(policy, config)
    assert abs(chunk(policy) - before).max() > 1e-3
    checkpoint.save(tmp_path / "tuned", build, weights, policy.processor, {}, base=base)
    loaded = checkpoint.load(tmp_path / "tuned")
    assert chunk(loaded) == pytest.approx(chunk(policy), abs=1e-4)
    assert loaded.generate([observation()], ["is there"], 4) == policy.generate([observation()], ["is there"], 4)
    assert base is not None and set(base) == {"vision", "language"}
    held = {name: tensor for name, tensor in weights.items() if name.startswith(("language.", "vision.encoder."))}
    assert all(name.endswith((".lora_A", ".lora_B", ".added")) for name in held)


def test_a_base_of_other_weights_is_refused(folders, tmp_path):
    policy, config = built(folders)
    build, weights, base = trained(policy, config)
    checkpoint.save(tmp_path / "tuned", build, weights, policy.processor, {}, base=base)
    document = json.loads((tmp_path / "tuned" / "config.json").read_text())
    document["base"]["vision"] = "0" * 64
    (tmp_path / "tuned" / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"the checkpoint sits on weights .* get the same revision"):
        checkpoint.load(tmp_path / "tuned")


@pytest.mark.parametrize("lost", ["head.placeholders", "language.model.embed_tokens.added"])
def test_a_missing_tensor_of_an_adapter_checkpoint_is_named(folders, lost, tmp_path):
    policy, config = built(folders)
    build, weights, base = trained(policy, config)
    kept = {name: tensor for name, tensor in weights.items() if name != lost}
    checkpoint.save(tmp_path / "tuned", build, kept, policy.processor, {}, base=base)
    with pytest.raises(ValueError, match=rf"missing .*{lost.removesuffix('.added')}"):
        checkpoint.load(tmp_path / "tuned")


LAYER = "language.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (f"{LAYER}.lora_B", None, rf"missing \['{LAYER}.lora_B'\]"),
        (f"{LAYER}.lora_A", lambda tensor: tensor[:, :1], rf"{LAYER}.lora_A \(4, 1\).* is not of the size"),
        ("grounding.query.bias", lambda tensor: tensor[:1], r"grounding.query.bias \(1,\) is not of the size"),
        ("language.model.embed_tokens.added", lambda tensor: tensor[:1], r"added \(1, 32\) is not of the size"),
    ],
    ids=["half", "rank", "bias", "rows"],
)
def test_a_tensor_of_another_size_is_not_spread_over_its_place(folders, name, damage, said, tmp_path):
    policy, config = built(folders)
    build, weights, base = trained(policy, config)
    changed = {key: tensor for key, tensor in weights.items() if key != name}
    changed |= {name: damage(weights[name])} if damage else {}
    checkpoint.save(tmp_path / "tuned", build, changed, policy.processor, {}, base=base)
    with pytest.raises(ValueError, match=said):
        checkpoint.load(tmp_path / "tuned")


def test_what_is_trained_in_full_needs_no_download(folders, tmp_path, monkeypatch):
    policy, config = built(folders)
    build, weights, base = trained(policy, config, lora=None)
    checkpoint.save(tmp_path / "full", build, weights, policy.processor, {}, base=base)
    assert base is None and str(folders["language"].parent) not in (tmp_path / "full" / "config.json").read_text()
    monkeypatch.setattr(AutoModel, "from_pretrained", None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    assert chunk(checkpoint.load(tmp_path / "full")) == pytest.approx(chunk(policy), abs=1e-5)


@pytest.mark.parametrize("lora", [None, LORA], ids=["in full", "adapters"])
def test_a_fused_encoder_stands_on_the_weights_of_its_parts(folders, lora, tmp_path):
    """One part is pretrained, one is not: the checkpoint names or holds the first, and holds the second."""
    scratch = dict(model_type="vit", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    parts = [{"pretrained": str(folders["vision"]), **COLOURS}, {**scratch, "image_size": 28, "patch_size": 7}]
    policy, config = built(folders, vision={"parts": parts})
    own = Foundation.of(policy.network, config)
    assert any(name.startswith("vision.encoder.encoders.0.") for name in own.names)
    assert not any(name.startswith("vision.encoder.encoders.1.") for name in own.names)
    build, weights, base = trained(policy, config, lora=lora)
    checkpoint.save(tmp_path / "fused", build, weights, policy.processor, {}, base=base)
    named = str(folders["vision"]) in (tmp_path / "fused" / "config.json").read_text()
    assert named == (lora is not None) == (base is not None)
    assert chunk(checkpoint.load(tmp_path / "fused")) == pytest.approx(chunk(policy), abs=1e-4)


def test_known_words_stay_and_new_ones_learn_where_the_language_model_is_frozen(folders):
    policy, config = built(folders)
    network, words = policy.network, policy.network.known_words
    before = network.embedding.weight.detach().clone()
    _, weights, _ = trained(policy, config, rates={"language": 0.0}, lora=None)
    after = network.embedding.weight
    assert torch.equal(before[:words], after[:words]) and not torch.equal(before[words:], after[words:])
    assert [name for name in weights if name.startswith("language.")] == ["language.model.embed_tokens.added"]
    ids = torch.tensor([[0, 5, words, words + 7]])
    assert torch.equal(network.embedding(ids), after[ids])
    hidden = torch.randn(2, 3, 32)
    torch.testing.assert_close(network.word_logits(hidden), hidden @ after.T)


def test_the_words_of_a_pretrained_model_are_its_own_and_unknown_ones_are_those_not_taught(folders, tmp_path):
    policy, config = built(folders)
    processor = policy.processor
    assert processor.words(torch.tensor([processor.tokenize("put the Blue zebra, in")])) == ["put the blue zebra, in"]
    box = "<box 1 2 1000 1023>"
    assert processor.words(torch.tensor([processor.tokenize(f"{box}")])) == [box]
    assert processor.unknown_words("put the blue Zebra, in") == ["zebra"]
    start = config["first_action_id"]
    ids = processor.tokenizer.convert_tokens_to_ids([*ACTION_TOKENS, *LOCATION_TOKENS])
    assert ids == list(range(start, start + len(ids))) and processor.pad_id == start + len(ids) > processor.eos_id
    checkpoint.save(tmp_path / "plain", config, policy.network.state_dict(), processor, {})
    again = checkpoint.load(tmp_path / "plain").processor
    assert again.unknown_words("zebra cube") == ["zebra"] and again.tokenize("cube") == processor.tokenize("cube")
    assert (again.pad_id, again.eos_id) == (processor.pad_id, processor.eos_id)


def test_locations_that_a_tokenizer_has_already_are_used(tmp_path):
    """PaliGemma has them, before our action bins."""
    save_tokenizer(tmp_path)
    own = AutoTokenizer.from_pretrained(tmp_path)
    own.add_tokens(LOCATION_TOKENS)
    own.save_pretrained(tmp_path)
    tokenizer = pretrained_tokenizer(str(tmp_path))
    first, last = tokenizer.convert_tokens_to_ids([LOCATION_TOKENS[0], LOCATION_TOKENS[-1]])
    assert last < tokenizer.convert_tokens_to_ids(ACTION_TOKENS[0])
    network = Network(**tiny_config(tokenizer) | {"first_location_id": first})
    assert network.location_ids == slice(first, last + 1)


def test_colours_are_normalised_as_the_encoder_was_trained(folders, tmp_path):
    encoder = AutoModel.from_pretrained(folders["vision"]).eval()
    ours = build_encoder(pretrained=str(folders["vision"]), **COLOURS).eval()
    image = torch.rand(2, 3, 28, 28)
    mean, std = (torch.tensor(COLOURS[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = encoder(pixel_values=(image - mean) / std).last_hidden_state
    torch.testing.assert_close(ours(pixel_values=image * 2 - 1).last_hidden_state, expected)
    said = tmp_path / "says so"
    shutil.copytree(folders["vision"], said)
    settings = {"do_normalize": True, "image_mean": COLOURS["mean"], "image_std": COLOURS["std"]}
    (said / "preprocessor_config.json").write_text(json.dumps(settings))
    known = build_encoder(pretrained=str(said)).eval()
    torch.testing.assert_close(known(pixel_values=image * 2 - 1).last_hidden_state, expected)
    assert known.colours == ours.colours == COLOURS and build_encoder(pretrained=str(folders["vision"])).colours == {}
    with pytest.raises(ValueError, match="mean and std together"):
        build_encoder(pretrained=str(folders["vision"]), mean=[0.5, 0.5, 0.5])
