"""Say in numpy and scipy what OpenVLA and FAST have published: how the other files of `vla/bench/golden` were made.

    python write_published.py FOLDER

OpenVLA: `prismatic/vla/action_tokenizer.py` and `predict_action` of its model, github.com/openvla/openvla. FAST:
`processing_action_tokenizer.py`, huggingface.co/physical-intelligence/fast. Neither is a package that can be installed.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.fft import dct, idct

BINS, VOCABULARY, PADDING, SCALE = 256, 32064, 64, 10


def openvla(folder: Path) -> dict[str, np.ndarray]:
    """Values to ids and back to actions; edges, ends and what lies beyond are among the values."""
    rng = np.random.default_rng(0)
    edges = np.linspace(-1, 1, BINS)
    values = np.concatenate([rng.uniform(-1.2, 1.2, 20 * 7), edges, edges.astype(np.float32), [-1, 1, -9, 9]])
    values = np.resize(values.astype(np.float32), (len(values) // 7, 7))
    size = VOCABULARY - PADDING
    ids = size - np.digitize(np.clip(values, -1, 1), edges)
    centers = (edges[:-1] + edges[1:]) / 2
    decoded = centers[np.clip(size - ids - 1, 0, BINS - 2)]
    low, high = rng.uniform(-0.1, -0.01, 7), rng.uniform(0.01, 0.1, 7)
    mask = np.array([True] * 6 + [False])
    low[6], high[6] = 0, 1
    actions = np.where(mask, 0.5 * (decoded + 1) * (high - low) + low, decoded)
    statistics = {"q01": low.tolist(), "q99": high.tolist(), "mask": mask.tolist()}
    config = {
        "model_type": "openvla",
        "architectures": ["OpenVLAForActionPrediction"],
        "n_action_bins": BINS,
        "pad_to_multiple_of": PADDING,
        "text_config": {"model_type": "llama", "vocab_size": VOCABULARY},
        "norm_stats": {"bridge_orig": {"action": statistics, "num_transitions": 1, "num_trajectories": 1}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return {"openvla.values": values, "openvla.ids": ids, "openvla.decoded": decoded, "openvla.actions": actions}


def fast() -> dict[str, np.ndarray]:
    """Smooth chunks to rounded coefficients and back; none so near to a half that rounding could go either way."""
    rng, time = np.random.default_rng(1), np.linspace(0, 1, 16)[:, None]
    start, slope, bend = rng.uniform(-1, 1, (3, 80, 1, 6)) * np.array([0.5, 0.3, 0.2]).reshape(3, 1, 1, 1)
    chunks = (start + slope * time + bend * time**2).astype(np.float32)
    exact = dct(chunks, axis=1, norm="ortho") * SCALE
    clear = (np.abs(np.abs(exact - np.floor(exact)) - 0.5) > 1e-3).all((1, 2))
    chunks, coefficients = chunks[clear], np.around(exact[clear])
    decoded = idct(coefficients / SCALE, axis=1, norm="ortho")
    return {"fast.chunks": chunks, "fast.coefficients": coefficients.astype(np.int64), "fast.decoded": decoded}


def main(out: str) -> None:
    """Write both."""
    arrays = openvla(Path(out) / "openvla") | fast()
    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, Path(out) / "published.safetensors"
    )


if __name__ == "__main__":
    main(sys.argv[1])
