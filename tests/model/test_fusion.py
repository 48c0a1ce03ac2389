"""However visual tokens meet words: they never depend on them, and everything else sees both."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.model.test_network import inputs
from tests.model.tiny import PROMPTS, handed_over, tiny_config, tiny_processor
from vla.model.fusion import CrossAttention
from vla.model.heads import HEADS, fit_head
from vla.model.network import Network

FUSIONS = {
    "prefix": dict(),
    "early_fusion": dict(vision=None, connector=dict(name="linear"), fusion=dict(name="early_fusion", patch_size=16)),
    "cross_attention": dict(fusion=dict(name="cross_attention")),
}


class Policy:
    """What `inputs` needs of one."""

    def __init__(self, fusion="prefix", **changes):
        self.fusion, changes = fusion, {**FUSIONS[fusion], **changes}
        self.processor = tiny_processor()
        torch.manual_seed(0)
        self.network = Network(**{**tiny_config(self.processor.tokenizer), **changes}).eval()
        for parameter in self.network.parameters():  # large enough that every path through the network shows
            if parameter.ndim > 1:
                parameter.data.mul_(3)
        if self.network.cross is not None:
            open_gates(self.network)


def open_gates(network):
    for look in network.cross.looks.values():
        look.attention_gate.data.fill_(1.0)
        look.mlp_gate.data.fill_(0.5)


@pytest.fixture(scope="module", params=FUSIONS)
def policy(request):
    return Policy(request.param)


@torch.no_grad()
def test_visual_states_do_not_depend_on_words_and_actions_depend_on_both(policy):
    """Hidden states of image tokens cannot be seen from outside, so the cache of keys and values is looked at."""
    network, batch = policy.network, inputs(policy)
    network.head.looks_back = True
    before, batch["text_ids"] = network(**batch), batch["text_ids"].flip(0)
    after = network(**batch)
    count = 0 if network.cross else network.vision.num_tokens
    for mine, theirs in zip(before.context.cache.layers, after.context.cache.layers, strict=True):
        torch.testing.assert_close(mine.keys[:, :, :count], theirs.keys[:, :, :count])
        torch.testing.assert_close(mine.values[:, :, :count], theirs.values[:, :, :count])
    torch.testing.assert_close(before.question_hidden, after.question_hidden, atol=1e-5, rtol=1e-4)
    assert (before.action_hidden - after.action_hidden).abs().max() > 1e-4
    batch["images"] = {name: image.flip(0) for name, image in batch["images"].items()}
    other = network(**batch)
    assert (other.action_hidden - after.action_hidden).abs().max() > 1e-4
    assert (other.question_hidden - after.question_hidden).abs().max() > 1e-4
    network.head.looks_back = False


@torch.no_grad()
def test_neither_questions_nor_padding_change_actions(policy):
    batch = inputs(policy)
    together = policy.network(**batch).action_hidden
    batch |= dict(question_ids=None, question_mask=None)
    batch["text_ids"] = torch.nn.functional.pad(batch["text_ids"], (0, 8), value=1)
    batch["text_mask"] = torch.nn.functional.pad(batch["text_mask"], (0, 8))
    torch.testing.assert_close(policy.network(**batch).action_hidden, together, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_generation_continues_as_the_training_pass_predicts(policy):
    batch, network, processor = inputs(policy), policy.network, policy.processor
    ids, mask = processor.prompts(PROMPTS[:2])
    answer = network.generate(batch["images"], ids, mask, 3, eos=-1, pad=0)
    rows = [processor.tokenize(text) for text in PROMPTS[:2]]
    for step in range(3):
        for row, tokens in enumerate(rows):
            one = {name: value[row : row + 1] for name, value in batch.items() if name != "images"}
            one["images"] = {name: image[row : row + 1] for name, image in batch["images"].items()}
            one["question_ids"] = torch.tensor([tokens])
            one["question_mask"] = torch.ones(1, len(tokens), dtype=torch.bool)
            assert network.likeliest(network(**one).question_hidden[:, -1]).item() == answer[row, step].item()
            tokens.append(int(answer[row, step]))


@torch.no_grad()
def test_a_question_of_padding_alone_harms_nothing(policy):
    batch = inputs(policy)
    batch["question_mask"] = torch.zeros_like(batch["question_mask"])
    outputs = policy.network(**batch)
    assert outputs.question_hidden.isfinite().all() and outputs.action_hidden.isfinite().all()


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_every_head_acts_after_every_fusion(policy, head):
    codec = policy.processor.codec
    windows = torch.rand(50, codec.action_horizon, codec.action_dim) * 2 - 1
    network = Policy(policy.fusion, head=fit_head(windows, head)).network
    batch = {name: value for name, value in inputs(policy).items() if not name.startswith("question")}
    values = network.act(**batch).values
    assert values.shape == (2, codec.action_horizon, codec.action_dim) and values.isfinite().all()


@torch.no_grad()
def test_a_copy_in_another_process_looks_as_well():
    """Training hands the network to other processes."""
    policy = Policy("cross_attention")
    batch = inputs(policy)
    copy = handed_over(policy.network)
    assert torch.equal(copy(**batch).action_hidden, policy.network(**batch).action_hidden)
    for look in copy.cross.looks.values():
        look.attention_gate.zero_(), look.mlp_gate.zero_()
    assert (copy(**batch).action_hidden - policy.network(**batch).action_hidden).abs().max() > 1e-4


LANGUAGE_MODELS = {
    "gpt2": dict(n_embd=32, n_layer=4, n_head=2, n_inner=32, bos_token_id=2, eos_token_id=2),
    "llama": dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32),
    "qwen2": dict(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32
    ),
}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_frozen_language_model_starts_as_it_was_and_then_sees(name):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=50, **LANGUAGE_MODELS[name])
    language = AutoModelForCausalLM.from_config(config).eval()
    words, visual = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    alone = language.base_model(inputs_embeds=words).last_hidden_state
    cross = CrossAttention(language, every=2)
    assert list(cross.looks) == ["0", "2"]
    torch.testing.assert_close(language.base_model(inputs_embeds=words, visual=visual).last_hidden_state, alone)
    trained = {name for name, weight in language.named_parameters() if weight.requires_grad}
    assert trained == {name for name in trained if "embed" in name or "wte" in name or "lm_head" in name} and trained
    language.base_model(inputs_embeds=words, visual=visual).last_hidden_state.sum().backward()
    assert all(look.attention_gate.grad != 0 for look in cross.looks.values())
    for look in cross.looks.values():
        look.attention_gate.data.fill_(1.0)
    assert (language.base_model(inputs_embeds=words, visual=visual).last_hidden_state - alone).abs().max() > 1e-4
    with pytest.raises(KeyError, match="visual"):
        language.base_model(inputs_embeds=words)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(fusion=dict(name="late")), "'late' is not known, possible: prefix, early_fusion, cross_attention"),
        (dict(fusion=dict(name="early_fusion")), "set vision=null"),
        (dict(vision=None), "fusion prefix needs vision"),
        (dict(fusion=dict(name="prefix", every=2)), "takes no settings, got .'every'"),
        (dict(connector=dict(name="perceiver", tokens=64)), "the language model reads 96"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Network(**{**tiny_config(tiny_processor().tokenizer), **changes})
