"""`vla bench NAME`: runs one measurement, a callable named by its config that takes `seed` and returns a dict."""

import os
import platform
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from vla.result import commit, write_result


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="bench")
def main(config: DictConfig) -> None:
    """Measure, print and write the result."""
    hydra_config = HydraConfig.get()
    name, out = hydra_config.runtime.choices["bench"], Path(hydra_config.runtime.output_dir)
    result = instantiate(config.bench, _partial_=True)(seed=config.seed)
    words = [word for word in hydra_config.overrides.task if not word.startswith("out=")]
    made_by = {"commit": commit(), "overrides": words, "machine": _machine()}
    path = write_result(out, bench=name, seed=config.seed, **result, made_by=made_by)
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{key:{width}}  {_words(value)}")
    print(path)


def _machine() -> dict[str, str | int | None]:
    """Describe what was measured on; the name of the processor where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} lines"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
