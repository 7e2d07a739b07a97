"""The faster vision tower has the outputs of transformers' own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower

from critic import vision_tower

BASE = Path(__file__).parents[2] / "assets/tiny-base"


def tower(attention: str) -> Any:
    """A vision tower of the tiny base's shape, with the same random weights each time."""
    torch.manual_seed(0)
    visual = Tower(AutoConfig.from_pretrained(BASE).vision_config).train()
    visual.config._attn_implementation = attention
    return visual


def run(attention: str, grids: list[list[int]]) -> list[torch.Tensor]:
    """Output and gradients of a tower for pictures of these sizes, in patches."""
    visual = tower(attention)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(sum(t * h * w for t, h, w in grids), 1176, generator=generator)
    output = visual(pixels, grid_thw=torch.tensor(grids)).pooler_output
    output.square().sum().backward()
    return [output, *(weight.grad for weight in visual.parameters())]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the queries of each call of SDPA."""
    shapes: list[tuple[int, ...]] = []

    def counted(call: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def attend(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            shapes.append(tuple(query.shape))
            return call(query, *args, **kwargs)

        return attend

    monkeypatch.setattr(
        vision_tower, "scaled_dot_product_attention", counted(vision_tower.scaled_dot_product_attention)
    )
    return shapes


@pytest.mark.parametrize(
    "grids",
    [[[1, 8, 8]] * 3, [[1, 8, 8], [1, 6, 10], [1, 4, 6], [1, 8, 8], [1, 8, 4]], [[1, 26, 36], [1, 18, 24]]],
    ids=["one window each", "several lengths", "many windows"],
)
def test_it_equals_the_loop_to_the_bit(grids: list[list[int]], calls: list[tuple[int, ...]]) -> None:
    expected = run("sdpa", grids)
    assert not calls
    packed = run(vision_tower.NAME, grids)
    assert calls
    for tensor, other in zip(packed, expected, strict=True):
        assert torch.equal(tensor, other)


def test_windows_of_equal_length_are_one_call(calls: list[tuple[int, ...]]) -> None:
    """16 windows of 8 x 8 patches, 8 at the edges of 8 x 4, and one in the corner of 4 x 4."""
    config = AutoConfig.from_pretrained(BASE).vision_config
    visual = tower(vision_tower.NAME)
    with torch.no_grad():
        visual(torch.zeros(36 * 36, 1176), grid_thw=torch.tensor([[1, 36, 36]]))
    whole = [shape for shape in calls if shape[2] == 36 * 36]
    windowed = [(shape[0], shape[2]) for shape in calls if shape[2] != 36 * 36]
    assert len(whole) == len(config.fullatt_block_indexes)
    assert windowed == [(16, 64), (8, 32), (1, 16)] * (config.depth - len(config.fullatt_block_indexes))


def test_patches_are_embedded_as_by_the_convolution() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv3d(3, 128, kernel_size=(2, 14, 14), stride=(2, 14, 14), bias=False).double()
    patches = torch.randn(50, 3, 2, 14, 14, dtype=torch.float64)
    expected = convolution(patches)
    expected.square().sum().backward()
    gradient, convolution.weight.grad = convolution.weight.grad, None
    convolution.__class__ = vision_tower.WholePatch
    found = convolution(patches)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(convolution.weight.grad, gradient)
