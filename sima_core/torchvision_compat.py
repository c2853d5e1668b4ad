"""Let timm import where torchvision's compiled operators do not match torch.

timm needs torchvision only for image transforms, yet ``import torchvision`` fails with
``operator torchvision::nms does not exist`` when its CUDA operators meet a CPU build of torch.
Declaring the schemas of the two operators it looks up at import is enough; nothing here ever
calls them. With a matching pair of packages this module does nothing.
"""

import sys

import torch

_NMS_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

#: The declarations live as long as this object; None where the real operators loaded.
declared: torch.library.Library | None = None


def declare_operators(error: RuntimeError) -> None:
    """Declare the operators, once torchvision could not be imported for want of them.

    Raises:
        RuntimeError: `error` itself, if it says something else.
    """
    global declared
    if "torchvision::nms" not in str(error):
        raise error
    # Forget what was half imported, so that the next import starts from its beginning.
    for name in [n for n in sys.modules if n.startswith("torchvision.")]:
        del sys.modules[name]
    declared = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        declared.define(name + _NMS_ARGUMENTS)  # type: ignore[no-untyped-call]
