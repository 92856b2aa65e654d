"""A server of OpenAI's form for tests of the proxy: a real process, whose answers are a function of the question.

    python tests/upstream.py KIND      prints its port

KIND is `right`, or a fault: `wrong` answers, `error` (500), `garbage` (no HTTP), `hang` (nothing, ever),
`cut` (ends amid a stream), `redirect` (to the address given after it).
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route


def text_of(request: dict[str, Any]) -> str:
    """Return the answer to a request."""
    asked = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
    return f"{request.get('model')} says: {asked[::-1]} 🙂"


def events(request: dict[str, Any]) -> list[bytes]:
    """Return a streamed answer's events."""
    text = text_of(request)
    deltas = [{"role": "assistant"}, *({"content": text[i : i + 3]} for i in range(0, len(text), 3)), {}]
    made = []
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
        body = {"id": "chatcmpl-" + str(len(text)), "model": request.get("model"), "choices": [choice]}
        made.append(b"data: " + json.dumps(body).encode() + b"\n\n")
    return [*made, b"data: [DONE]\n\n"]


def whole(request: dict[str, Any]) -> dict[str, Any]:
    """Return an answer in one piece."""
    text = text_of(request)
    usage = {"prompt_tokens": 7, "completion_tokens": len(text)}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    choice |= {"message": {"role": "assistant", "content": text}} if "messages" in request else {"text": text}
    return {"id": f"id-{len(text)}", "model": request.get("model"), "choices": [choice], "usage": usage}


def app(kind: str, seen: list[dict[str, Any]]) -> Starlette:
    """Return the application."""

    async def answer(request: Request) -> Response:
        body = await request.json()
        seen.append({"headers": dict(request.headers), "body": body, "path": str(request.url)})
        if kind == "error":
            return JSONResponse({"error": {"message": "broken"}}, 500)
        if kind.startswith("redirect"):
            return RedirectResponse(kind.partition("=")[2], 307)
        asked = {**body, "model": "nobody"} if kind == "wrong" else body
        if not body.get("stream"):
            return JSONResponse(whole(asked), headers={"x-request-id": "r1", "set-cookie": "a=b"})
        parts = events(asked)

        async def stream() -> AsyncIterator[bytes]:
            for number, part in enumerate(parts):
                if kind == "cut" and number == 2:
                    raise RuntimeError("cut")
                yield part
                await asyncio.sleep(0)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def told(request: Request) -> Response:
        return JSONResponse(seen)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": kind}]}, headers={"x-query": request.url.query})

    async def echo(request: Request) -> Response:
        return Response(await request.body(), 203, media_type=request.headers.get("content-type"))

    return Starlette(
        routes=[
            Route("/v1/chat/completions", answer, methods=["POST"]),
            Route("/v1/completions", answer, methods=["POST"]),
            Route("/v1/models", models),
            Route("/seen", told),
            Route("/v1/files", echo, methods=["POST", "PUT"]),
        ]
    )


async def raw(kind: str) -> None:
    """Serve what is no HTTP, or nothing."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if kind == "hang":
            await asyncio.sleep(3600)
        writer.write(b"\x16\x03\x01 this is no HTTP \r\n\r\n" * 50)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main(kind: str) -> None:
    """Serve until killed."""
    if kind in ("hang", "garbage"):
        asyncio.run(raw(kind))
        return
    config = uvicorn.Config(app(kind, []), port=0, log_level="critical", lifespan="off")
    listener = config.bind_socket()
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
