"""Finding a pipeline: a shipped example by its name, or the user's file by its path."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from features.errors import PipelineError
from features.schema import nearest
from models.arguments import expected_call
from models.pipeline import Pipeline

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load_pipeline(reference: str) -> Pipeline:
    """The pipeline of a shipped example ("flights") or of a Python file ("shop/pipeline.py").

    The file is run as a module; it may import from its own folder. It must hold exactly one `Pipeline`.

    Raises PipelineError, with the file and line, for whatever is wrong with it.

    Example:
        >>> load_pipeline("fligths.py")
        Traceback (most recent call last):
        features.errors.PipelineError: pipeline 'fligths.py': there is no such file; expected the path of a Python file, or as an example ...
    """
    path = _find(reference)
    return _only_pipeline(_run(path), path)


def examples() -> list[str]:
    """The names of the shipped examples."""
    return sorted(path.parent.name for path in EXAMPLES.glob("*/pipeline.py"))


def _find(reference: str) -> Path:
    if reference in examples():
        return EXAMPLES / reference / "pipeline.py"
    path = Path(reference)
    if path.is_file() and path.suffix == ".py":
        return path.resolve()
    seen = "it is no Python file" if path.exists() else "there is no such file"
    known = nearest(reference, examples())
    raise PipelineError(
        f"pipeline {reference!r}", seen, f"the path of a Python file, or as an example {known}"
    )


def _run(path: Path) -> ModuleType:
    # The module's name tells two files of one name apart, and stays in sys.modules because msgspec looks the
    # annotations of a struct up there.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except PipelineError as error:
        raise PipelineError(f"{_place(path, error)}: {error.place}", error.seen, error.expected) from error
    except (Exception, SystemExit) as error:
        seen = f"{type(error).__name__}: {_message(error)}"
        expected = expected_call(error) or "a file that Python can import"
        raise PipelineError(_place(path, error), seen, expected) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _place(path: Path, error: BaseException) -> str:
    """The file and the line in it that the error comes from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f"{path.name}, line {lines[-1]}" if lines else path.name


def _message(error: BaseException) -> str:
    return str(error.msg) if isinstance(error, SyntaxError) else str(error)


def _only_pipeline(module: ModuleType, path: Path) -> Pipeline:
    found = {id(value): name for name, value in vars(module).items() if isinstance(value, Pipeline)}
    if len(found) != 1:
        names = ", ".join(found.values()) or "none"
        raise PipelineError(
            path.name, f"pipelines in it: {names}", "exactly one, such as: payments = Pipeline(…)"
        )
    pipeline: Pipeline = getattr(module, next(iter(found.values())))
    return pipeline
