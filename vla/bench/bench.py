"""`vla bench NAME`: runs one measurement, a callable named by its config that takes `seed` and returns a dict."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from vla.result import write_result


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="bench")
def main(config: DictConfig) -> None:
    """Measure, print and write the result."""
    hydra_config = HydraConfig.get()
    name, out = hydra_config.runtime.choices["bench"], Path(hydra_config.runtime.output_dir)
    result = instantiate(config.bench, _partial_=True)(seed=config.seed)
    path = write_result(out, bench=name, seed=config.seed, **result)
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{key:{width}}  {_words(value)}")
    print(path)


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} lines"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
