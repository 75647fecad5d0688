"""Whether the packages that only `serve` needs are installed."""

import importlib

from schemas.errors import ServeError

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def check_packages() -> None:
    """Look before anything is loaded. Raises: ServeError that says how to install them."""
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ServeError(
                f"{name} is not installed here: {error}",
                where="serve",
                fix="pip install -r requirements-serve.txt -c constraints.txt",
            ) from error
