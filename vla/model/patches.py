"""No vision encoder at all: blocks of pixels go to the language model as they are, as in Fuyu-8B (Adept 2023)."""

from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class PatchesConfig(PretrainedConfig):
    """Side of a block [px]."""

    model_type = "patches"

    def __init__(self, patch_size: int = 16, **rest):
        super().__init__(**rest)
        self.patch_size = patch_size


class PatchesModel(PreTrainedModel):
    """float[B, 3, H, W] -> float[B, 3 * patch_size^2, H / patch_size, W / patch_size], without weights."""

    config_class = PatchesConfig
    main_input_name = "pixel_values"

    def __init__(self, config: PatchesConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Return the blocks as `last_hidden_state`; an image that cannot be cut into them is refused (ValueError)."""
        size = self.config.patch_size
        height, width = pixel_values.shape[2:]
        if height % size or width % size:
            raise ValueError(f"an image of {height} x {width} pixels cannot be cut into patches of {size} x {size}")
        blocks = functional.pixel_unshuffle(pixel_values, size)
        return BaseModelOutput(last_hidden_state=blocks)  # pyright: ignore[reportArgumentType]


AutoConfig.register("patches", PatchesConfig)
AutoModel.register(PatchesConfig, PatchesModel)
