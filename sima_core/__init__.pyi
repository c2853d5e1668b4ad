from .attention.modules import SimAClassAttention, SimAttention
from .attention.operation import sima_attention
from .errors import InputError, SimaLensError
from .lens.analysis import Analysis, Prediction
from .lens.class_maps import attention_maps
from .lens.flow import Flow, FlowTotals, Parts
from .lens.heatmaps import Heatmap, heatmap, overlay
from .lens.knockout import KnockOut
from .lens.lens import Lens, analyze, token_norms
from .lens.maps import Maps, NamedMap
from .lens.norms import NormRecorder, TokenNorms
from .lens.pictures import ImageError, load_image, preprocess
from .models.architectures import Architecture, architectures
from .models.conversion import Conversion, convert_to_sima
from .weights.loading import load_model
from .weights.provenance import Provenance, provenance
from .weights.sentences import CheckpointError

__version__: str

__all__ = [
    "Analysis",
    "Architecture",
    "CheckpointError",
    "Conversion",
    "Flow",
    "FlowTotals",
    "Heatmap",
    "ImageError",
    "InputError",
    "KnockOut",
    "Lens",
    "Maps",
    "NamedMap",
    "NormRecorder",
    "Parts",
    "Prediction",
    "Provenance",
    "SimAClassAttention",
    "SimAttention",
    "SimaLensError",
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
