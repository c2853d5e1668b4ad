"""SimA Lens: which image tokens a softmax-free vision transformer listens to.

What is public is listed in `__init__.pyi`, and imported when it is first asked for: printing a
command's help, say, needs neither torch nor timm.
"""

import lazy_loader

from sima_core import timm_hook

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

timm_hook.install()
