"""Every action head keeps one contract: it learns what it is taught, says valid chunks, and continues given steps."""

import functools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct

from tests.model.tiny import PROMPTS, handed_over, observation, tiny_config, tiny_processor
from vla.model import checkpoint
from vla.model.denoising_heads import cosine_betas
from vla.model.fast import FastCodec
from vla.model.heads import HEADS, fit_head
from vla.model.network import Network
from vla.model.policy import VLAPolicy

HORIZON, DIM, LESSONS = 4, 3, 150
SMALL = {  # settings with which a head of a tiny network learns in seconds
    "l1": dict(hidden=32),
    "flow": dict(expert=dict(n_inner=32)),
    "diffusion": dict(hidden=64, blocks=2, says="chunk"),
    "fast": dict(vocabulary=160),
}
ERROR = {  # in -1..1, largest of all values, after a few hundred steps on one small batch
    "parallel": 0.02,
    "autoregressive": 1 / 255,  # half a bin: every token is the right one
    "fast": 0.1,  # the rounding of coefficients: every token is the right one
    "l1": 0.1,
    "flow": 0.2,
    "diffusion": 0.25,
}


def smooth_chunks(count, seed=0):
    """Chunks as motions are: a start, a slope and a bend for each joint, float[count, T, A] within -1..1."""
    generator = torch.Generator().manual_seed(seed)
    start, slope, bend = (torch.rand(3, count, 1, DIM, generator=generator) * 2 - 1) * torch.tensor(
        [0.5, 0.3, 0.15]
    ).view(3, 1, 1, 1)
    time = torch.linspace(0, 1, HORIZON)[:, None]
    return start + slope * time + bend * time**2


def settings_of(name):
    return fit_head(smooth_chunks(200), name, **SMALL.get(name, {}))


def network_with(name, seed=0, **changes):
    torch.manual_seed(seed)
    config = tiny_config(tiny_processor().tokenizer, HORIZON)
    config |= dict(cameras={"wrist": [32, 32]}, head=settings_of(name) | changes)
    return Network(**config).eval()


untaught = functools.cache(network_with)


def batch_of(count, seed=0, targets=None):
    generator = torch.Generator().manual_seed(seed)
    ids, mask = tiny_processor().text([PROMPTS[i % 3] for i in range(count)])
    return dict(
        images={"wrist": torch.randint(0, 255, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)},
        text_ids=ids,
        text_mask=mask,
        state=torch.rand(count, DIM, generator=generator) * 2 - 1,
        given_actions=torch.zeros(count, HORIZON, DIM) if targets is None else targets,
        given_steps=torch.zeros(count, dtype=torch.long),
    )


def loss_of(network, batch, step=0, counts=None, times=1):
    """Loss of a head that sees each row so many times."""
    outputs = network(**batch)
    targets, hidden, context = batch["given_actions"], outputs.action_hidden, outputs.context
    counts = torch.ones(targets.shape[:2], dtype=torch.bool) if counts is None else counts
    rows = [tensor.repeat_interleave(times, 0) for tensor in (targets, counts, batch["given_steps"])]
    if times > 1:
        context.present, context.state = (t.repeat_interleave(times, 0) for t in (context.present, context.state))
        if context.cache:
            context.cache.batch_repeat_interleave(times)
    generator = torch.Generator().manual_seed(step)
    return network.head.loss(hidden.repeat_interleave(times, 0), context, *rows, 1.5, generator)


@pytest.mark.parametrize("name", ["flow", "diffusion"])
@torch.no_grad()
def test_a_head_that_draws_noise_several_times_learns_as_from_several_rows(name):
    batch = batch_of(3, targets=smooth_chunks(3)) | dict(given_steps=torch.tensor([0, 1, 2]))
    counts = torch.ones(3, HORIZON, dtype=torch.bool)
    counts[1, 3:] = False
    alone, several = (network_with(name, draws=draws) for draws in (1, 5))
    wanted, found = loss_of(alone, batch, counts=counts, times=5), loss_of(several, batch, counts=counts)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    outputs = several(**batch)
    losses = [
        several.head.loss(
            outputs.action_hidden,
            outputs.context,
            batch["given_actions"],
            counts,
            batch["given_steps"],
            1.5,
            torch.Generator().manual_seed(0),
        )
        for _ in range(2)
    ]
    assert losses[0] == losses[1] == found  # what it looks at is as it was


@pytest.mark.parametrize("name", HEADS)
def test_a_head_says_what_it_was_taught(name):
    """Three chunks; heads that learn from noise see each many times a step, with other noise each time."""
    network, targets = network_with(name), smooth_chunks(3, seed=1)
    batch = batch_of(3, targets=targets)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, LESSONS)
    for step in range(LESSONS):
        optimizer.zero_grad()
        loss_of(network, batch, step, times=16 if name in ("flow", "diffusion") else 1).backward()
        optimizer.step()
        schedule.step()
    decision = network.act(**{**batch, "given_actions": torch.zeros_like(targets)})
    assert (decision.values - targets).abs().max() < ERROR[name]
    if decision.confidence is not None:
        assert (decision.confidence > 0.9).all()


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_given_steps_change_the_steps_behind_them_and_hidden_ones_change_nothing(name):
    network, batch = network_with(name), batch_of(2)
    for parameter in network.parameters():
        parameter.mul_(3 if parameter.ndim > 1 else 1)
    free = network.act(**batch).values
    batch["given_actions"][:, 0] += 0.5
    torch.testing.assert_close(network.act(**batch).values, free)
    batch["given_steps"][:] = 1
    assert (network.act(**batch).values[:, 1:] - free[:, 1:]).abs().max() > 1e-4


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_a_batch_gives_what_each_row_gives_alone_and_the_same_again(name):
    network, batch = network_with(name), batch_of(3)
    together = network.act(**batch)
    assert torch.equal(network.act(**batch).values, together.values)
    for row in range(3):
        one = {key: value[row : row + 1] for key, value in batch.items() if key != "images"}
        alone = network.act(images={"wrist": batch["images"]["wrist"][row : row + 1]}, **one)
        torch.testing.assert_close(alone.values[0], together.values[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_steps_that_do_not_count_teach_nothing(name):
    """Neither given steps nor those beyond the end; a coefficient of FAST belongs to all, so there none may count."""
    network, batch = network_with(name), batch_of(2, targets=smooth_chunks(2))
    loss = loss_of(network, batch, counts=torch.zeros(2, HORIZON, dtype=torch.bool))
    assert loss == 0
    if name not in ("fast", "flow"):  # the noisy chunk of flow is one input, like the words before it
        counts = torch.arange(HORIZON) < torch.tensor([HORIZON, 2])[:, None]
        before = loss_of(network, batch, counts=counts)
        batch["given_actions"][1, 2:] += 0.3
        if name != "diffusion":
            torch.testing.assert_close(loss_of(network, batch, counts=counts), before)


@pytest.mark.parametrize("name", HEADS)
def test_every_weight_of_a_head_learns(name):
    network, batch = network_with(name), batch_of(3, targets=smooth_chunks(3))
    batch["given_steps"][0] = 1
    outputs = network(**batch)
    (loss_of(network, batch) + outputs.progress.sum() + 2 * outputs.done.sum()).backward()
    weights = dict(network.head.named_parameters())
    assert not [name for name, weight in weights.items() if weight.grad is None or not weight.grad.any()]
    assert network.embedding.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", HEADS)
def test_a_checkpoint_keeps_the_head_and_the_objective_travels(name, tmp_path):
    processor = tiny_processor(HORIZON)
    torch.manual_seed(0)
    config = tiny_config(processor.tokenizer, HORIZON) | dict(head=settings_of(name))
    policy = VLAPolicy(Network(**json.loads(json.dumps(config))), processor)
    checkpoint.save(tmp_path / "kept", config, policy.network.state_dict(), processor, {})
    loaded, seen = checkpoint.load(tmp_path / "kept"), observation()
    chunk = policy.act([seen])[0]
    np.testing.assert_array_equal(loaded.act([seen])[0].actions, chunk.actions)
    assert (chunk.confidence is None) == (name in ("l1", "flow", "diffusion"))
    given_targets = np.broadcast_to(seen.state, (1, HORIZON, DIM))
    continued = policy.act([seen], given=given_targets, given_steps=2)[0].actions
    np.testing.assert_allclose(continued[:2], given_targets[0, :2], atol=1e-5)
    copy = handed_over(policy.network)
    np.testing.assert_array_equal(VLAPolicy(copy, processor).act([seen])[0].actions, chunk.actions)


def test_nothing_chosen_means_what_was_before_there_was_a_choice():
    config = tiny_config(tiny_processor().tokenizer)
    named = dict(connector=dict(name="mlp"), fusion=dict(name="prefix"), head=dict(name="parallel"))
    torch.manual_seed(0)
    old = Network(**config).state_dict()
    torch.manual_seed(0)
    new = Network(**config, **named).state_dict()
    assert list(old) == list(new) and all(torch.equal(old[name], new[name]) for name in old)


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="'bins' is not known, possible: parallel, autoregressive, fast"):
        Network(**tiny_config(tiny_processor().tokenizer), head=dict(name="bins"))


# Token by token.


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_bins_and_ids_are_those_of_openvla(seed):
    """`ActionTokenizer` of openvla, as published, where the action ids are the last of the vocabulary."""
    head = untaught("autoregressive").head
    vocab_size = head.action_ids.stop
    actions = np.random.default_rng(seed).uniform(-1.2, 1.2, (1, HORIZON, DIM))
    bins = np.linspace(-1, 1, 256)
    ids = vocab_size - np.digitize(np.clip(actions, -1, 1), bins)
    assert head.spell(torch.from_numpy(actions))[0].tolist() == ids.reshape(1, -1).tolist()
    centers = (bins[:-1] + bins[1:]) / 2
    values = centers[np.clip(vocab_size - ids - 1, 0, len(centers) - 1)]
    np.testing.assert_allclose(head.read(torch.from_numpy(ids.reshape(1, -1))), values, atol=1e-6)


@torch.no_grad()
def test_tokens_from_the_cache_are_those_that_one_pass_predicts():
    network, batch = network_with("autoregressive"), batch_of(3, targets=smooth_chunks(3))
    for parameter in network.parameters():
        parameter.mul_(3 if parameter.ndim > 1 else 1)
    batch["given_steps"] = torch.tensor([1, 2, 3])  # other words before what is decided in each row
    said = network.act(**batch).values
    hidden = network(**{**batch, "given_actions": said}).action_hidden
    likeliest = (hidden @ network.embedding.weight[network.action_ids].T).argmax(-1) + network.action_ids.start
    ids = network.head.spell(said)[0]
    known = network.head.spell(batch["given_actions"])[0]
    for row, first in enumerate((DIM, 2 * DIM, 3 * DIM)):
        assert torch.equal(ids[row, :first], known[row, :first])
        assert torch.equal(likeliest[row, first:], ids[row, first:])


@pytest.mark.parametrize("name", ["autoregressive", "fast"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
@torch.no_grad()
def test_whatever_an_untaught_network_says_is_a_valid_chunk(name, seed):
    network, batch = untaught(name), batch_of(3, seed)
    generator = torch.Generator().manual_seed(seed)
    network.head.readout.copy_(3 * torch.randn(network.head.readout.shape, generator=generator))
    decision = network.act(**batch)
    assert decision.values.shape == (3, HORIZON, DIM) and decision.values.isfinite().all()
    assert ((decision.confidence >= 0) & (decision.confidence <= 1)).all()
    if name == "autoregressive":
        assert decision.values.abs().max() <= 254 / 255 + 1e-6
    else:
        coefficients = network.head.codec.waves @ decision.values * network.head.codec.scale
        torch.testing.assert_close(coefficients, coefficients.round(), atol=1e-3, rtol=0)
        assert coefficients.min() > network.head.codec.low - 0.5 and coefficients.max() < network.head.codec.high + 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(5, 50))
def test_fast_comes_back_within_the_rounding_of_its_coefficients(seed, scale):
    chunks = smooth_chunks(40, seed)
    codec = FastCodec(HORIZON, DIM, **FastCodec.fit(chunks, scale, vocabulary=400))
    bound = 0.5 / scale * codec.waves.abs().sum(0).max()
    assert (codec.decode(codec.encode(chunks)) - chunks).abs().max() <= bound + 1e-5


def test_fast_transforms_as_published_and_merges_what_is_frequent():
    """Orthonormal DCT-II along time, scaled, rounded, low frequencies of all joints first (arXiv:2501.09747)."""
    chunks = smooth_chunks(300)
    codec = FastCodec(HORIZON, DIM, **FastCodec.fit(chunks, 10.0, vocabulary=160))
    expected = np.round(dct(chunks.numpy(), axis=1, norm="ortho") * 10).astype(int).reshape(300, -1)
    rows = codec.encode(chunks)
    texts = ["".join(codec.tokenizer.id_to_token(token) for token in row) for row in rows]
    assert [[ord(symbol) - 0x100 + codec.low for symbol in text] for text in texts] == expected.tolist()
    assert np.mean([len(row) for row in rows]) < 0.8 * HORIZON * DIM
    assert FastCodec.fit(chunks, 10.0, vocabulary=160) == FastCodec.fit(chunks, 10.0, vocabulary=160)


def test_fast_refuses_what_it_cannot_hold_or_read():
    with pytest.raises(ValueError, match="cannot hold"):
        FastCodec.fit(smooth_chunks(40), scale=100.0, vocabulary=20)
    codec = FastCodec(HORIZON, DIM, **FastCodec.fit(smooth_chunks(40), vocabulary=160))
    with pytest.raises(ValueError, match="a chunk has 12 symbols"):
        codec.decode([codec.encode(smooth_chunks(1))[0][:-1]])


# Step by step out of noise.


@torch.no_grad()
def test_eulers_method_ends_at_the_chunk_that_the_velocity_points_to():
    network, targets = network_with("flow"), smooth_chunks(2)
    starts = []

    def straight(noisy, time, context, sight):
        starts.append((noisy.clone(), time.clone()))
        return starts[0][0] - network.head.sized(targets)

    network.head.field.velocity = straight
    values = network.act(**batch_of(2)).values
    torch.testing.assert_close(values, targets, atol=1e-5, rtol=1e-5)
    assert [time[0, 0].item() for _, time in starts] == pytest.approx([1 - k / 10 for k in range(10)])


@torch.no_grad()
def test_given_steps_are_at_time_zero_and_the_prefix_is_read_but_never_grows():
    network, batch = network_with("flow"), batch_of(2, targets=smooth_chunks(2))
    batch["given_steps"] = torch.tensor([2, 0])
    outputs = network(**batch, taught=False)
    length, velocity, times = outputs.context.cache.get_seq_length(), network.head.field.velocity, []
    network.head.field.velocity = lambda noisy, time, *seen: (times.append(time), velocity(noisy, time, *seen))[1]
    values, _ = network.head.decide(
        outputs.action_hidden, outputs.context, batch["given_actions"], batch["given_steps"]
    )
    assert outputs.context.cache.get_seq_length() == length and len(times) == 10
    assert all((time[0, :2] == 0).all() and (time[0, 2:] > 0).all() and (time[1] > 0).all() for time in times)
    assert torch.equal(values[0, :2], batch["given_actions"][0, :2])


def test_chunks_are_as_large_as_the_told_every_step_and_joint():
    chunks = smooth_chunks(200) * torch.tensor([0.01, 0.1, 1.0])
    chunks[..., 0] += 0.3
    fitted = fit_head(chunks, "flow")
    head = network_with("flow", middle=fitted["middle"], spread=fitted["spread"]).head
    sized = head.sized(chunks)
    assert (sized[..., 0].std(0) < 1).all()  # what hardly moves is not blown up
    torch.testing.assert_close(sized[..., 1:].std(0), torch.ones(HORIZON, DIM - 1), atol=1e-3, rtol=0.0)
    assert sized.mean(0).abs().max() < 1e-4


@pytest.mark.parametrize("insulate", [False, True])
def test_an_insulated_language_model_learns_nothing_from_the_expert(insulate):
    network = network_with("flow", insulate=insulate)
    loss_of(network, batch_of(2, targets=smooth_chunks(2))).backward()
    gradients = [weight.grad for weight in network.language.parameters() if weight.grad is not None]
    assert any(gradient.any() for gradient in gradients) != insulate
    assert network.head.field.outward.weight.grad.any()


def test_an_expert_takes_no_setting_that_its_model_does_not_have():
    with pytest.raises(ValueError, match="'intermediate' is no setting of a gpt2 model"):
        network_with("flow", expert=dict(intermediate=3))


@torch.no_grad()
def test_denoising_ends_at_the_chunk_when_the_noise_is_known():
    network, targets = network_with("diffusion", says="noise"), smooth_chunks(2)
    kept = network.head.kept

    def known(noisy, step, readout):
        share = kept[step][:, None, None]
        return (noisy - share.sqrt() * network.head.sized(targets)) / (1 - share).sqrt()

    network.head.told = known
    torch.testing.assert_close(network.act(**batch_of(2)).values, targets, atol=1e-4, rtol=1e-4)


def test_noise_grows_until_nothing_of_the_chunk_is_left():
    betas = cosine_betas(20)
    assert (betas.diff() > -1e-6).all() and 0 < betas[0] < 0.02
    assert torch.cumprod(1 - betas, 0)[-1] < 1e-3
