"""torchvision is repaired where it must be, timm is followed, and both are otherwise left alone."""

import subprocess
import sys


def in_fresh_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_torchvision_is_importable_after_sima_core():
    assert in_fresh_python("import sima_core, torchvision, timm; print('fine')") == "fine"


def test_a_working_torchvision_is_left_alone(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("mark = 'real'")
    code = (
        "import sys, importlib.util as u; sys.path.insert(0, {path!r});"
        "s = u.spec_from_file_location('compat', 'sima_core/torchvision_compat.py');"
        "m = u.module_from_spec(s); s.loader.exec_module(m); m.ensure_torchvision_imports();"
        "import torchvision; print(torchvision.mark, m.declared)"
    )
    assert in_fresh_python(code.format(path=str(tmp_path))) == "real None"


def test_timm_is_imported_as_without_us_and_knows_our_architectures():
    code = (
        "import sima_core, timm, importlib.resources as r;"
        "print(timm.is_model('sima_nano_12_p16'), hasattr(timm, 'models'), hasattr(timm, 'layers'),"
        "type(timm.__spec__.loader).__name__, r.files('timm').joinpath('version.py').is_file())"
    )
    assert in_fresh_python(code) == "True True True SourceFileLoader True"


def test_architectures_are_registered_also_where_timm_was_there_first():
    code = (
        "from sima_core.torchvision_compat import ensure_torchvision_imports as e; e();"
        "import sys; sys.modules.pop('sima_core'); sys.meta_path.pop(0);"
        "import timm, sima_core; print(timm.is_model('sima_nano_12_p16'))"
    )
    assert in_fresh_python(code) == "True"
