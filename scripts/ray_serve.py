"""`ecdiff serve` as a Ray Serve deployment: replicas behind one address, started anew where one dies.

    pip install "ray[serve]"
    export ECDIFF_TOKEN=$(cat token) PYTHONPATH=scripts
    serve run ray_serve:app config=ecdiff.yaml replicas=2 gpus=1

Each replica is the app of `ecdiff serve` with models of its own. Ray has the address and the port (8000); TLS
is for a proxy before it. A plan that goes back and forth may find another replica than its session's: the
client then begins the session there anew, at the cost of the cloud's part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from ecdiff_core.errors import ParamsError
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.serving.guard import Guard
from ecdiff_core.serving.limits import Limits
from ecdiff_core.serving.server import make_app
from ecdiff_core.serving.token_file import VARIABLE, find_token


def app(settings: Mapping[str, Any]) -> Application:
    """The deployment.

    Args:
        settings: ``config``, a tuned YAML; ``replicas`` (default 2) and ``gpus`` of each (default 0).
    """
    limits, token = Limits(), find_token(None)
    if token is None:
        line = f"Expected a token in {VARIABLE}: Ray listens for other machines too."
        raise ParamsError(line, key=VARIABLE)

    def build() -> Guard:
        return make_app(ECDiffPipeline.from_config(settings["config"], side="cloud"), token, limits)

    deployment = serve.deployment(
        name="ecdiff",
        num_replicas=int(settings.get("replicas", 2)),
        # The app's own queue says when it is full; Ray's is to let it.
        max_ongoing_requests=limits.queue + limits.batch_size + 1,
        ray_actor_options={"num_gpus": float(settings.get("gpus", 0))},
    )
    return deployment(serve.ingress(build)()).bind()
