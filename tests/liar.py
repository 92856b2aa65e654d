"""Servers of OpenAI's API that tell lies, as real ones do: run as a process, with the lie as its argument."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

asked: dict[str, int] = {}


class Handler(BaseHTTPRequestHandler):
    """Answers as the lie has it."""

    lie = ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List the models."""
        loaded = [] if self.lie == "no-loading" else [{"id": "a" * 64}]
        self._send(200, {"data": [{"id": "embedded", "owned_by": "vllm"}, *loaded]})

    def do_POST(self) -> None:
        """Answer a request."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/load_lora_adapter"):
            self._send(404, {"detail": "Not Found"})
            return
        key = json.dumps(body, sort_keys=True)
        asked[key] = asked.get(key, 0) + 1
        if body["model"] not in ("embedded", "a" * 64) and self.lie != "any-model":
            self._send(404, {"error": {"message": "no such model"}})
        elif self.lie == "busy" and asked[key] < 3:
            self._send(429 if asked[key] == 1 else 503, {"error": "busy"}, {"retry-after": "0"})
        elif self.lie == "never":
            self._send(500, {"error": {"message": "broken"}})
        elif self.lie == "later":
            self._send(429, {"error": {"message": "quota"}}, {"retry-after": "3600"})
        elif self.lie == "long":
            self._send(400, {"error": {"message": "This model's maximum context length is 8 tokens"}})
        elif self.lie == "tells-key":
            self._send(403, {"error": {"message": f"no right to it: {self.headers['authorization']}"}})
        elif self.lie == "garbage":
            self._send(200, {"choices": []})
        else:
            self._answer(body)

    def _answer(self, body: dict[str, Any]) -> None:
        usage = {"prompt_tokens": 3, "completion_tokens": 1}
        if "messages" in body:
            said = "box " + body["messages"][-1]["content"].rpartition(" ")[2]
            self._send(200, {"choices": [{"message": {"content": said}, "finish_reason": "stop"}], "usage": usage})
            return
        text, logprobs = "x", None
        if body.get("echo") and self.lie != "ignores-echo":
            text = "a bx"
            if self.lie != "ignores-logprobs":
                salted = 0.5 if "cache_salt" in body else 0.0  # vLLM takes a salt
                more = 1 if self.lie == "adds-token" else 0
                values = [None, *[-1.0 - salted] * (len(body["prompt"]) - 1 + more), -2.0]
                logprobs = {"token_logprobs": values}
        self._send(200, {"choices": [{"text": text, "logprobs": logprobs, "finish_reason": "length"}], "usage": usage})

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Handler.lie = sys.argv[1]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
