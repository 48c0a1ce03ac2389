"""Layers by oneDNN say what torch's own say, gradients included, and step aside where they have no place."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from vla.model import onednn
from vla.model.onednn import OneDnnLinear, by_onednn, product

pytestmark = pytest.mark.skipif(not onednn.AVAILABLE, reason="torch without oneDNN")


def pair(bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """A layer, and the same by oneDNN."""
    torch.manual_seed(0)
    plain, quick = nn.Linear(24, 40, bias=bias), nn.Sequential(nn.Linear(24, 40, bias=bias))
    quick[0].load_state_dict(plain.state_dict())
    by_onednn(quick)
    assert type(quick[0]) is OneDnnLinear
    return plain, quick[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["rows", "one", "turned", "cut"])
def test_products_and_gradients_are_those_of_torch(bias, layout):
    plain, quick = pair(bias)
    given = torch.randn(3, 7, 24)
    given = {"rows": given, "one": given[0, 0], "turned": given.transpose(0, 1), "cut": given[:, 1::2]}[layout]
    found = []
    for layer in (plain, quick):
        seen = given.detach().requires_grad_()
        said = layer(seen)
        said.sin().sum().backward()
        found.append([said.detach(), seen.grad, *(weight.grad for weight in layer.parameters())])
    assert len(found[0]) == 3 + bias
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_what_is_frozen_learns_nothing_and_passes_gradients_on():
    plain, quick = pair()
    quick.requires_grad_(False)
    seen = torch.randn(5, 24, requires_grad=True)
    quick(seen).sum().backward()
    assert quick.weight.grad is None
    torch.testing.assert_close(seen.grad, plain.weight.sum(0).expand(5, -1).detach(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_weights_in_any_layout_are_multiplied():
    given, weight = torch.randn(6, 8), torch.randn(16, 10)
    for layout in (weight[:, ::2][:, :4], torch.randn(4, 16).t()[:, :4], torch.randn(4, 16).t()):
        torch.testing.assert_close(product(given[:, ::2], layout), given[:, ::2] @ layout.T, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_other_precisions_and_nothing_at_all_go_the_usual_way():
    plain, quick = pair()
    assert quick(torch.zeros(0, 24)).shape == (0, 40)
    with torch.autocast("cpu", torch.bfloat16):
        given = torch.randn(2, 24)
        assert quick(given).dtype == torch.bfloat16
        assert torch.equal(quick(given), plain(given))
    assert quick.double()(torch.zeros(2, 24, dtype=torch.float64)).dtype == torch.float64


def test_names_and_weights_stay():
    network = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    by_onednn(network)
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("learned", [True, False])
def test_the_activation_behind_a_layer_is_kept(learned):
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    config = AutoConfig.for_model("smolvlm_vision", **sizes, image_size=32, patch_size=8)
    model = AutoModel.from_config(config).requires_grad_(learned)
    mlp, given = model.encoder.layers[0].mlp, torch.randn(2, 5, 16)
    usual = mlp(given)
    by_onednn(model)
    assert type(mlp.fc1) is onednn.OneDnnGelu and type(mlp.activation_fn) is nn.Identity
    torch.testing.assert_close(mlp(given), usual, atol=1e-5, rtol=1e-5)
    by_onednn(model)  # again changes nothing
    torch.testing.assert_close(mlp(given), usual, atol=1e-5, rtol=1e-5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mlp(given).float(), usual, atol=2e-2, rtol=2e-2)
