"""The architectures, on timm's skeletons; importing this room registers them with timm."""

from sima_core.models import architectures  # noqa: F401  # registers them
