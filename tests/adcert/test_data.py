"""Batches and augmentation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.data import AUGMENTATIONS, Labelled, generator, load_training_data, shuffled_batches, unit_range
from adcert.problems import RecipeProblem


def test_the_held_out_images_are_the_last_of_the_training_split(digits: object) -> None:
    everything = load_training_data("mnist", 1, torch.device("cpu"))
    data = load_training_data("mnist", 40, torch.device("cpu"))
    assert len(data.fit) == 160
    assert len(data.held_out) == 40
    assert torch.equal(data.fit.images, everything.fit.images[:160])
    assert torch.equal(data.held_out.images[:39], everything.fit.images[160:])
    assert data.fit.images.dtype == torch.uint8


def test_holding_out_everything_is_a_mistake_in_the_recipe() -> None:
    with pytest.raises(RecipeProblem, match="held_out = 200 leaves nothing of the 200 images of mnist"):
        load_training_data("mnist", 200, torch.device("cpu"))


def test_pixels_become_exact_multiples_of_one_over_255() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    expected = torch.tensor([value / 255 for value in range(256)], dtype=torch.float64).float()
    assert torch.equal(unit_range(pixels), expected)


def test_batches_are_a_permutation_without_the_remainder() -> None:
    data = Labelled(torch.arange(23, dtype=torch.uint8).reshape(23, 1, 1, 1), torch.arange(23))
    batches = list(shuffled_batches(data, 5, torch.Generator().manual_seed(0)))
    assert [len(y) for _, y in batches] == [5] * 4
    drawn = torch.cat([y for _, y in batches])
    assert len(drawn.unique()) == 20
    assert not torch.equal(drawn, drawn.sort().values)
    assert all(torch.equal(x.flatten().long(), y) for x, y in batches)


def test_random_numbers_depend_on_seed_purpose_and_epoch() -> None:
    draws = {
        name: torch.rand(1, generator=generator("cpu", *key)).item()
        for name, key in {"a": (0, "x", 0), "b": (1, "x", 0), "c": (0, "y", 0), "d": (0, "x", 1)}.items()
    }
    assert len(set(draws.values())) == 4
    assert draws["a"] == torch.rand(1, generator=generator("cpu", 0, "x", 0)).item()


def every_flip_and_crop(image: Tensor, padding: int) -> list[Tensor]:
    """All images that padding by so many pixels (edges repeated), cropping and mirroring can give."""
    padded = F.pad(image[None].float(), (padding,) * 4, mode="replicate")[0].to(torch.uint8)
    height, width = image.shape[1:]
    places = range(2 * padding + 1)
    crops = [padded[:, r : r + height, c : c + width] for r in places for c in places]
    return crops + [crop.flip(-1) for crop in crops]


@pytest.mark.parametrize(("name", "padding"), [("flip-crop", 2), ("flip-crop-4", 4)])
def test_flip_crop_gives_every_mirrored_and_shifted_image_and_nothing_else(name: str, padding: int) -> None:
    image = torch.randint(0, 256, (3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augmented = AUGMENTATIONS[name](image.expand(3000, 3, 6, 7), torch.Generator().manual_seed(0))
    possible = {tuple(each.flatten().tolist()) for each in every_flip_and_crop(image, padding)}
    assert len(possible) == 2 * (2 * padding + 1) ** 2
    assert {tuple(each.flatten().tolist()) for each in augmented} == possible
