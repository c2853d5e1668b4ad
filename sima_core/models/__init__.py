"""The architectures, on timm's skeletons; importing this room registers them with timm."""

from sima_core.torchvision_compat import ensure_torchvision_imports

ensure_torchvision_imports()  # before anything that imports timm

from sima_core.models import architectures  # noqa: F401  # registers them
