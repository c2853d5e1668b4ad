"""torchvision is repaired where it must be, and left alone where not."""

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
        "s = u.spec_from_file_location('compat', 'sima_core/models/torchvision_compat.py');"
        "m = u.module_from_spec(s); s.loader.exec_module(m); m.ensure_torchvision_imports();"
        "import torchvision; print(torchvision.mark, m.declared)"
    )
    assert in_fresh_python(code.format(path=str(tmp_path))) == "real None"
