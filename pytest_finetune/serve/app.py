"""The server's routes."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pytest_finetune.engine.serving import Busy, Serving, Unloaded
from pytest_finetune.errors import FinetuneError, SuiteError
from pytest_finetune.serve import requests, responses
from pytest_finetune.serve.access import NO_CHANGES, Access
from pytest_finetune.serve.answering import Answer, Answering, Stream, rows
from pytest_finetune.serve.catalogue import Catalogue, adapter_of
from pytest_finetune.serve.meters import Meters, Visit
from pytest_finetune.serve.requests import Refused

MOST_BYTES = 8 << 20  # of a body
GONE = 499  # as nginx calls the status that a client no longer waited for


class App:
    """What the routes do."""

    def __init__(self, serving: Serving, catalogue: Catalogue, meters: Meters, access: Access) -> None:
        self._serving, self._catalogue, self._meters, self._access = serving, catalogue, meters, access
        self._changes = asyncio.Lock()  # one adapter is loaded or unloaded at a time

    def starlette(self) -> Starlette:
        """Return the application."""
        chat, completions = partial(self._complete, True), partial(self._complete, False)
        routes = [
            Route("/health", self._health),
            self._route("/metrics", self._metrics, "GET"),
            self._route("/v1/models", self._models, "GET"),
            self._route("/v1/models/{id:path}", self._model, "GET"),
            self._route("/v1/chat/completions", chat, "POST"),
            self._route("/v1/completions", completions, "POST"),
            self._route("/v1/load_lora_adapter", self._load, "POST"),
            self._route("/v1/unload_lora_adapter", self._unload, "POST"),
        ]
        handlers: dict[Any, Any] = {
            Refused: _refused,
            HTTPException: lambda request, error: _error(error.status_code, error.detail),
            ClientDisconnect: lambda request, error: Response(status_code=GONE),
            Exception: lambda request, error: _error(500, f"{type(error).__name__}: the server's fault"),
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    def _route(self, path: str, handler: Callable[[HttpRequest], Awaitable[Response]], method: str) -> Route:
        async def checked(request: HttpRequest) -> Response:
            self._access.check(request)
            return await handler(request)

        return Route(path, checked, methods=[method])

    async def _health(self, request: HttpRequest) -> Response:
        if not self._serving.alive:
            return PlainTextResponse("the engine ended\n", 503)
        return PlainTextResponse("ok\n")

    async def _metrics(self, request: HttpRequest) -> Response:
        return Response(self._meters.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": list(self._catalogue.models().values())})

    async def _model(self, request: HttpRequest) -> Response:
        return JSONResponse(self._catalogue.models()[self._catalogue.find(request.path_params["id"])])

    async def _complete(self, chat: bool, http: HttpRequest) -> Response:
        """Answer a request for completions, counted whatever becomes of it."""
        visit = Visit(self._meters, http.url.path, http.headers.raw)
        answer = None
        try:
            answer = await self._begin(chat, http, visit)
            if answer.request.stream:
                return Stream(answer)
            response = JSONResponse(await answer.whole(http.receive))
        except Refused as error:
            visit.end(error.status, *(answer.tokens if answer else ()))
            raise
        except BaseException as error:
            gone = isinstance(error, ClientDisconnect | asyncio.CancelledError)
            visit.end(GONE if gone else 500, *(answer.tokens if answer else ()))
            raise
        visit.end(200, *answer.tokens)
        return response

    async def _begin(self, chat: bool, http: HttpRequest, visit: Visit) -> Answer:
        body = await _body(http)
        request = await asyncio.to_thread(lambda: requests.read(_parsed(body), chat))
        digest = self._catalogue.find(request.model)
        visit.model = digest or self._catalogue.base
        form = responses.Form(
            id=("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
            created=int(time.time()),
            model=visit.model,
            chat=chat,
            logprobs=request.logprobs is not None,
        )
        try:
            asks = await asyncio.to_thread(rows, self._serving, request, digest)
            return Answer(request, form, Answering(self._serving, asks), visit)
        except Busy as error:
            raise Refused(503, str(error), code="overloaded") from None
        except Unloaded as error:
            raise Refused(404, str(error), "model", "model_not_found") from None

    async def _load(self, http: HttpRequest) -> Response:
        given = requests.fields(_parsed(await _body(http)), "lora_name", "lora_path")
        name = given["lora_name"]
        folder = await asyncio.to_thread(self._access.adapter_folder, given["lora_path"])
        async with self._changes:
            try:
                adapter = await asyncio.to_thread(adapter_of, folder)
                self._catalogue.check(name, adapter.digest)
                await asyncio.wrap_future(self._serving.load(adapter))
                if (await asyncio.to_thread(adapter_of, folder)).digest != adapter.digest:
                    await asyncio.wrap_future(self._serving.unload(adapter.digest))
                    raise SuiteError(f"adapter {folder}: its files changed while they were read; load it again")
                self._catalogue.add(name, adapter)
            except FinetuneError as error:
                raise Refused(400, str(error), "lora_path") from None
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, http: HttpRequest) -> Response:
        name = requests.fields(_parsed(await _body(http)), "lora_name")["lora_name"]
        if not self._access.adapters_from:
            raise Refused(403, NO_CHANGES)
        async with self._changes:
            if digest := self._catalogue.remove(name):
                await asyncio.wrap_future(self._serving.unload(digest))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def _body(http: HttpRequest) -> bytes:
    """Return a request's body, which pages of other sites cannot send as JSON without being asked first."""
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Content-Type: application/json is needed")
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Refused(413, f"the body is longer than {MOST_BYTES} bytes")
    return bytes(body)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {str(error)[:200]}") from None


def _refused(request: HttpRequest, refused: Any) -> Response:
    headers = {503: {"retry-after": "1"}, 401: {"www-authenticate": "Bearer"}}.get(refused.status)
    return _error(refused.status, refused.message, refused.param, refused.code, headers)


def _error(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    # In ASCII: what it shows of a request may hold halves of characters, which JSON can write and UTF-8 cannot.
    text = json.dumps(responses.error(message, status, param, code))
    return Response(text, status, headers, "application/json")
