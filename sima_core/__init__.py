"""SimA Lens: which image tokens a softmax-free vision transformer listens to."""

from . import runtime
from .torchvision_compat import ensure_torchvision_imports

ensure_torchvision_imports()  # before anything that imports timm

from .analysis import Analysis, Prediction, analyze
from .attention import SimAttention, SimAClassAttention, sima_attention
from .capture import NormRecorder, TokenNorms, token_norms
from .checkpoints import CheckpointError, Provenance, load_model, provenance
from .conversion import Conversion, convert_to_sima
from .heatmaps import Heatmap, heatmap, overlay
from .images import ImageError, load_image, preprocess
from .models import Architecture, architectures
from .rollout import attention_maps

__version__ = runtime.VERSION

__all__ = [
    "Analysis",
    "Architecture",
    "CheckpointError",
    "Conversion",
    "Heatmap",
    "ImageError",
    "NormRecorder",
    "Prediction",
    "Provenance",
    "SimAClassAttention",
    "SimAttention",
    "TokenNorms",
    "analyze",
    "architectures",
    "attention_maps",
    "convert_to_sima",
    "heatmap",
    "load_image",
    "load_model",
    "overlay",
    "preprocess",
    "provenance",
    "sima_attention",
    "token_norms",
]
