"""`vla search`: find moments in what `vla analyze` left behind, by words and by meaning."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vla.result import write_result
from vla.video.embed import EndpointEmbedder
from vla.video.index import search


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="search")
def main(config: DictConfig) -> None:
    """Search, print the hits, and write the result."""
    out = Path(HydraConfig.get().runtime.output_dir)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if plain["index"] is None or plain["query"] is None:
        raise ValueError("give index= the folder that vla analyze wrote, and query= some words")
    index = Path(plain["index"])
    embedder = EndpointEmbedder(**plain["embeddings"]) if plain["embeddings"]["url"] else None
    encoder = instantiate(config.frames) if plain["frames"]["checkpoint"] else None
    query = str(plain["query"])
    if encoder is not None and encoder.sentence(query) is None:
        print(f"frames are not searched: {plain['frames']['checkpoint']} was never taught all words of {query!r}")
    hits = search(index, query, plain["top"], embedder, encoder)
    listed = [asdict(hit) | {"report": index / hit.folder / "report.html"} for hit in hits]
    path = write_result(out, query=query, seed=plain["seed"], hits=listed)
    for hit in hits:
        span = (
            f"{hit.start_s:8.2f} s, a frame " if hit.kind == "frame" else f"{hit.start_s:8.2f} s to {hit.stop_s:.2f} s"
        )
        print(f"{span}  {hit.item}: {hit.label} ({hit.why[:80]})")
    print(f"{len(hits)} moments, {path}")


if __name__ == "__main__":
    main()
