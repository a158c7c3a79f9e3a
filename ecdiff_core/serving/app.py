"""The HTTP side of a server: what is asked, checked, queued and answered."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict
from typing import Annotated, TypeVar

import torch
from fastapi import FastAPI, Header, Query, Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from ecdiff_core import __version__
from ecdiff_core.models.devices import device_name, dtype_name
from ecdiff_core.serving import packet, problems
from ecdiff_core.serving.cloud_side import CloudSide, HandedOver, Sides
from ecdiff_core.serving.kept import Answers, Sessions
from ecdiff_core.serving.limits import Limits
from ecdiff_core.serving.link_meter import Spread
from ecdiff_core.serving.metrics import Metrics
from ecdiff_core.serving.packet import Encoding
from ecdiff_core.serving.problems import Problem
from ecdiff_core.serving.requests import HandoffRequest, ImageRequest, read_request
from ecdiff_core.serving.seconds import Timings
from ecdiff_core.serving.worker import Job, Worker

Form = TypeVar("Form", bound=ImageRequest)
SAFETENSORS, RAW = "application/x-safetensors", "tensor/binary"
"""Media types of answers: a packet, and latents alone as diffusers' remote_utils knows them."""
SESSION = "Ecdiff-Session"
_MOST_BYTES = 2**23
"""Of a download that measures the link; random, so that nothing on the way makes it smaller."""


class Service:
    """What the routes share: the cloud's side, its worker, and what is kept between requests."""

    def __init__(self, sides: Sides, limits: Limits) -> None:
        self.sides, self.cloud, self.limits, self.metrics = sides, sides.own, limits, Metrics()
        engine = self.cloud.engine(limits.batch_size, self.metrics.called)
        self.worker = Worker(engine, limits.queue, self.metrics)
        self.sessions = Sessions(limits.sessions, limits.session_seconds)
        self.answers = Answers(limits.answers, limits.answer_seconds, limits.grace_seconds)
        self.ready = False

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """From the first call of the model to the last."""
        self.worker.start()
        taken = await asyncio.to_thread(self.cloud.warm_up)
        self.worker.alone.extend(taken["cloud_call"])
        self.encode = Spread.of(taken["encode"])
        self.ready = True
        yield
        self.ready = False
        if not await asyncio.to_thread(self.worker.stop, self.limits.drain_seconds):
            logging.getLogger("ecdiff.serving").error("the device's last call has not ended: not waited for")

    def timings(self) -> Timings:
        """Seconds of one image alone, as measured when it began and as they are since."""
        return {"cloud_call": Spread.of(list(self.worker.alone.copy())), "encode": self.encode}

    @property
    def most_bytes(self) -> int:
        """Of a body: two prompts of the longest characters, or latents twice over."""
        latents = self.cloud.noise_form(0).tensors["latents"].size_bytes
        return max(2 * 6 * self.limits.prompt_chars, 2 * latents) + 2**16

    def check(self, asked: ImageRequest) -> CloudSide:
        """The side that a request is for; raises Problem where there is none, or the prompt is too long."""
        for name in ("prompt", "negative_prompt"):
            length = len(getattr(asked, name) or "")
            if length > self.limits.prompt_chars:
                most = self.limits.prompt_chars
                raise Problem(422, f"Expected a {name} of at most {most} characters, got {length}.")
        side = self.sides.of(asked.config)
        found = packet.differences(asked.config, side.facts)
        if found:
            more = {name: {"yours": theirs, "ours": ours} for name, (theirs, ours) in found.items()}
            line = f"Not the same config (yours | ours): {packet.listed(found)}. Give both machines one YAML."
            raise Problem(409, line, differences=more)
        return side

    async def do(self, path: str, job: Job) -> object:
        """The result of a job."""
        began = time.monotonic()
        self.worker.submit(job)
        result: object = await asyncio.wrap_future(job.result)
        self.metrics.took(path, time.monotonic() - began)
        return result

    async def handoff(self, side: CloudSide, asked: HandoffRequest, raw: bool) -> Response:
        """A packet, or latents alone; begins a session where the plan asks for the cloud again."""
        plan = side.form(asked.mode).plan
        with self.sessions.place() if plan.later_cloud_steps else nullcontext():
            job = side.handoff(asked.asked(asked.mode), asked.packet, asked.deadline_seconds)
            done = await self.do("/v1/handoff", job)
            assert isinstance(done, HandedOver)
            latents = done.state.latents
            headers = {"shape": json.dumps(list(latents.shape)), "dtype": dtype_name(latents.dtype)}
            if plan.later_cloud_steps:
                headers[SESSION] = self.sessions.begin(done.conditioning, plan)
        if raw:
            return Response(_raw_bytes(latents), 200, headers, RAW)
        return Response(done.packet, 200, headers, SAFETENSORS)

    async def noise(self, body: bytes, name: str, step: int, encoding: Encoding) -> Response:
        """The guided noise of a session's latents at a cloud step."""
        session = self.sessions.use(name)
        later = list(session.plan.later_cloud_steps)
        if step not in later:
            raise Problem(
                422, f"Expected a step of {later}, at which the plan asks for the cloud, got {step}."
            )
        tensors, _ = packet.read_packet(body, self.cloud.noise_form(step), encoding)
        job = self.cloud.noise(session.conditioning, step, tensors["latents"], encoding)
        content = await self.do("/v1/noise", job)
        self.sessions.count(name)
        return Response(content, 200, media_type=SAFETENSORS)


def _raw_bytes(tensor: Tensor) -> bytes:
    values: bytes = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return values


async def read(model: type[Form], request: Request) -> Form:
    """The body of a request."""
    return read_request(model, await request.body(), request.headers.get("content-type", ""))


def create_app(service: Service) -> FastAPI:
    """The routes, without the guard before them."""
    app = FastAPI(
        title="ecdiff",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=service.lifespan,
    )
    problems.install(app)
    answers = service.answers

    @app.post("/v1/handoff")
    async def handoff(request: Request) -> Response:
        asked = await read(HandoffRequest, request)
        side, raw = service.check(asked), request.headers.get("accept") == RAW
        return await answers.once(request, lambda: service.handoff(side, asked, raw))

    @app.post("/v1/noise")
    async def noise(
        request: Request,
        session: Annotated[str, Header(alias=SESSION, max_length=64)],
        step: Annotated[int, Query(ge=0, le=10**6)],
        encoding: Annotated[Encoding, Query(alias="packet")] = "computed",
    ) -> Response:
        body = await request.body()
        return await answers.once(request, lambda: service.noise(body, session, step, encoding))

    @app.post("/v1/images")
    async def images(request: Request) -> Response:
        asked = await read(ImageRequest, request)
        service.check(asked)
        if service.cloud.pipe.pair.family.media != "image":
            raise Problem(501, "This model makes videos, and PNG holds none. Use /v1/handoff.")

        async def work() -> Response:
            job = service.cloud.image(asked.asked("cloud"), asked.deadline_seconds)
            return Response(await service.do("/v1/images", job), media_type="image/png")

        return await answers.once(request, work)

    @app.get("/v1/config")
    async def config() -> Response:
        return JSONResponse(
            {
                "version": __version__,
                "format_version": packet.FORMAT_VERSION,
                "facts": service.cloud.facts,
                "device": device_name(service.cloud.pipe.device),
                "seconds": {name: asdict(spread) for name, spread in service.timings().items()},
                "seconds_per_call": service.worker.seconds_per_step,
            }
        )

    @app.get("/v1/bytes")
    async def some_bytes(count: Annotated[int, Query(ge=0, le=_MOST_BYTES)]) -> Response:
        return Response(secrets.token_bytes(count), media_type="application/octet-stream")

    @app.get("/health/live")
    async def live() -> Response:
        return Response("alive\n", media_type="text/plain")

    @app.get("/health/ready")
    async def ready() -> Response:
        if not service.ready:
            raise Problem(503, "The models are being warmed up, or the server goes down.")
        return Response("ready\n", media_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return app
