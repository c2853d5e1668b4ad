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
        "import sys; sys.path.insert(0, {path!r}); import sima_core, torchvision;"
        "from sima_core import torchvision_compat as c; print(torchvision.mark, c.declared)"
    )
    assert in_fresh_python(code.format(path=str(tmp_path))) == "real None"


def test_a_torchvision_that_fails_for_another_reason_says_so_itself(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('of its own')")
    code = (
        "import sys; sys.path.insert(0, {path!r}); import sima_core\n"
        "try: import torchvision\n"
        "except RuntimeError as error: print(error)"
    )
    assert in_fresh_python(code.format(path=str(tmp_path))) == "of its own"


def test_a_torchvision_whose_operators_do_not_match_torch_is_imported_all_the_same(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torch\n"
        "if not hasattr(torch.ops.torchvision, 'nms'):\n"
        "    raise RuntimeError('operator torchvision::nms does not exist')\n"
        "mark = 'repaired'\n"
    )
    code = "import sys; sys.path.insert(0, {path!r}); import sima_core, torchvision as t;"
    assert in_fresh_python(code.format(path=str(tmp_path)) + "print(t.mark)") == "repaired"


def test_timm_is_imported_as_without_us_and_knows_our_architectures():
    code = (
        "import sima_core, timm, importlib.resources as r;"
        "print(timm.is_model('sima_nano_12_p16'), hasattr(timm, 'models'), hasattr(timm, 'layers'),"
        "type(timm.__spec__.loader).__name__, r.files('timm').joinpath('version.py').is_file())"
    )
    assert in_fresh_python(code) == "True True True SourceFileLoader True"


def test_architectures_are_registered_also_where_timm_was_there_first():
    code = (
        "import sys, sima_core, torchvision; sys.meta_path.pop(0); import timm;"
        "before = timm.is_model('sima_nano_12_p16');"
        "[sys.modules.pop(n) for n in list(sys.modules) if n.partition('.')[0] == 'sima_core'];"
        "import sima_core; print(before, timm.is_model('sima_nano_12_p16'))"
    )
    assert in_fresh_python(code) == "False True"
