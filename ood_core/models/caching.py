"""Deep features of a U-Net, kept from one evaluation to the next (Ma et al. 2024, DeepCache).

Between neighbouring noise levels what the coarser levels of a U-Net say changes little. So on the
way down only every so many-th evaluation is whole; those between run the finest level alone and
take the features that reach it from below from the last whole one. No weight changes.
"""

import copy
from typing import Any, cast, final

from torch import Tensor, nn

from ood_core.arrays import Maps
from ood_core.errors import BaseModelError
from ood_core.models.networks import Patched


@final
class CachingUnet(nn.Module):
    """A `UNet2DModel` that is run whole at every `interval`-th evaluation of a way down.

    A way down lasts while the noise level falls and the shape stays; its first evaluation is whole.
    So is every evaluation where levels rise or repeat, as on the way up of an inversion.
    """

    def __init__(self, unet: nn.Module, interval: int) -> None:
        super().__init__()
        self.unet, self.interval = unet, interval
        self._memory = _Memory()
        self._shallow = _shallow(unet, self._memory)
        self._deepest(unet).register_forward_hook(self._remember)
        self._level, self._since = float("-inf"), 0

    def forward(self, x_t: Maps, t: Tensor | float) -> Any:
        """Return the output record of the network, or of its finest level alone."""
        level, known = float(t), self._memory.features
        falling = known is not None and len(known) == len(x_t) and level < self._level
        self._since = (self._since + 1) % self.interval if falling else 0
        self._level = level
        return (self._shallow if self._since else self.unet)(x_t, t)

    def forget(self) -> None:
        """Begin anew: the next evaluation is whole, whatever came before it."""
        self._memory.features = None
        self._level, self._since = float("-inf"), 0

    @staticmethod
    def _deepest(unet: nn.Module) -> nn.Module:
        """The block whose answer is all that the finest level learns of the others."""
        return cast(nn.Module, cast(Any, unet).up_blocks[-2])

    def _remember(self, _module: nn.Module, _given: Any, answer: Tensor) -> None:
        self._memory.features = answer


@final
class _Memory(nn.Module):
    """Stands where the coarser levels were, and answers what they last said."""

    def __init__(self) -> None:
        super().__init__()
        self.features: Tensor | None = None

    def forward(self, _sample: Tensor, _embedding: Tensor) -> Tensor | None:
        return self.features


def caching(network: nn.Module, interval: int) -> nn.Module:
    """A network with its features kept for `interval` evaluations, folded pixels or not.

    Raises:
        BaseModelError: it is no plain U-Net of two levels or more.
    """
    if isinstance(network, Patched):
        return Patched(caching(network.unet, interval), network.patch)
    require_levels(network)
    return CachingUnet(network, interval)


def require_levels(network: nn.Module) -> None:
    """Refuse a network that has no coarser levels whose features could be kept.

    Raises:
        BaseModelError: it is no plain U-Net of two levels or more.
    """
    unet = network.unet if isinstance(network, Patched) else network
    blocks = [*getattr(unet, "down_blocks", ()), *getattr(unet, "up_blocks", ())]
    if len(blocks) < 4 or any(hasattr(block, "skip_conv") for block in blocks):
        raise BaseModelError(
            f"method.cache_interval: got a base whose network is {type(unet).__name__}; expected "
            "a plain UNet2DModel of two levels or more: leave cache_interval out"
        )


def _shallow(unet: nn.Module, memory: nn.Module) -> nn.Module:
    """The same network without its coarser levels; weights are shared, not copied."""
    whole = cast(Any, unet)
    first = _with_children(whole.down_blocks[0], downsamplers=None)
    return _with_children(
        unet,
        down_blocks=nn.ModuleList([first]),
        mid_block=memory,
        up_blocks=nn.ModuleList([whole.up_blocks[-1]]),
    )


def _with_children(module: nn.Module, **children: nn.Module | None) -> nn.Module:
    """A copy that shares all parts with its original but those that are given."""
    other = copy.copy(module)
    other._modules = {**module._modules, **children}
    return other
