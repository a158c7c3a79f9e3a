"""What inference may depend on: it must run where no tuning library is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ecdiff_core

PACKAGE = Path(ecdiff_core.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {
    "PIL",
    "accelerate",
    "diffusers",
    "ecdiff_core",
    "huggingface_hub",
    "pydantic",
    "pydantic_core",
    "safetensors",
    "torch",
    "tqdm",
    "transformers",
    "yaml",
}
"""Beside the standard library. Not hydra, omegaconf, optuna, pandas, matplotlib or ecdiff_tune."""
SERVE = {"fastapi", "httpx2", "prometheus_client", "starlette", "uvicorn"}
"""Of the extra ``serve``, in its room alone."""
OPTIONAL = {
    "methods/cache_dit_blocks.py": {"cache_dit"},
    "methods/dbcache.py": {"cache_dit"},
    "methods/deepcache.py": {"DeepCache"},
    "methods/masks.py": {"cache_dit"},
    "methods/step_mask.py": {"cache_dit"},
    "methods/tome.py": {"tomesd"},
}
"""Accelerations that are packages of their own, imported when they are switched on."""


def imported(source: str) -> set[str]:
    """The top-level packages that a module imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(str(node.module).partition(".")[0])
    return found


def test_imported_sees_every_form() -> None:
    source = "import a.b as c\nfrom d.e import f\ndef g():\n    if True:\n        import h, i\n"
    assert imported(source) == {"a", "d", "h", "i"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_core_imports_nothing_of_tuning(path: Path) -> None:
    allowed = ALLOWED | OPTIONAL.get(str(path.relative_to(PACKAGE)), set())
    allowed |= SERVE if path.parent.name == "serving" else set()
    assert imported(path.read_text(encoding="utf-8")) - set(sys.stdlib_module_names) <= allowed


def test_all_modules_are_looked_at() -> None:
    names = {str(path.relative_to(PACKAGE)) for path in MODULES}
    assert {"pipeline.py", "__main__.py", "models/families/stable_diffusion.py", "shapes/grammar.py"} <= names


def test_sampler_and_plan_know_no_family() -> None:
    for name in ("sampler", "plan", "params", "estimators"):
        source = (PACKAGE / "sampling" / f"{name}.py").read_text(encoding="utf-8")
        assert "families" not in source
        assert "StableDiffusion" not in source


def test_params_and_plan_are_pure_python_and_quick_to_import() -> None:
    script = (
        "import sys, ecdiff_core, ecdiff_core.__main__\n"
        "from ecdiff_core.sampling import params, plan\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_public_names_exist() -> None:
    for name in ecdiff_core.__all__:
        assert getattr(ecdiff_core, name).__module__.startswith("ecdiff_core.")
    assert set(ecdiff_core.__all__) <= set(dir(ecdiff_core))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ecdiff_core.nothing
