"""Requests to a server of OpenAI's API: so many at once, and again where what failed may pass."""

import asyncio
import email.utils
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import httpx2

from pytest_finetune.engine.batches import Tick
from pytest_finetune.engines import EngineSpec
from pytest_finetune.errors import EngineError, PromptTooLong, SuiteError

T = TypeVar("T")
MAY_PASS = {408, 409, 425, 429, 500, 502, 503, 504}
FIRST_SECONDS, LONGEST_SECONDS = 0.5, 60.0  # between two attempts
TOO_LONG = ("context_length_exceeded", "context length", "maximum context", "context size", "context window")
CONNECT_SECONDS = 10.0


class Refused(SuiteError):
    """A server's answer that no second attempt changes."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One server's API.

    Args:
        spec: the endpoint.

    Raises:
        SuiteError: the environment has no key where the suite names one, or one that HTTP cannot carry.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        key = os.environ.get(spec.api_key_env, "") if spec.api_key_env else ""
        if spec.api_key_env and not (key and key.isascii() and key.isprintable()):
            problem = "holds no key for HTTP, which takes printable ASCII" if key else "is not set"
            raise SuiteError(
                f"[engine] api_key_env = {spec.api_key_env!r}: the variable {problem}; export the key in it"
            )
        self._key = key
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str) -> Any:
        """Return what a path holds."""
        return self._run(lambda client: self._ask(client, "GET", path, None), [None], _silent)[0]

    def post(self, path: str, bodies: Sequence[dict[str, Any]], tick: Tick = lambda done, total: None) -> list[Any]:
        """Return the answer to each body, in order.

        Raises:
            Refused: the server refuses one of them.
            PromptTooLong: it says that one is longer than the model's context.
            EngineError: it cannot be reached, or failed at every attempt.
        """
        return self._run(lambda client, body: self._ask(client, "POST", path, body), bodies, tick)

    def _run(self, ask: Callable[..., Awaitable[T]], bodies: Sequence[Any], tick: Tick) -> list[T]:
        async def all_of_them() -> list[T]:
            places, done = asyncio.Semaphore(self.spec.concurrency), 0
            # No proxy of the environment's and no redirect: what is asked, and the key, go to this server only.
            limits = httpx2.Limits(max_connections=self.spec.concurrency)
            timeout = httpx2.Timeout(self.spec.timeout_seconds, connect=CONNECT_SECONDS, pool=None)
            async with httpx2.AsyncClient(
                headers=self._headers, timeout=timeout, limits=limits, trust_env=False, follow_redirects=False
            ) as client:

                async def one(body: Any) -> T:
                    nonlocal done
                    async with places:
                        answer = await (ask(client) if body is None else ask(client, body))
                    done += 1
                    tick(done, len(bodies))
                    return answer

                try:
                    async with asyncio.TaskGroup() as group:  # the first that fails ends the others
                        tasks = [group.create_task(one(body)) for body in bodies]
                except ExceptionGroup as failed:
                    raise failed.exceptions[0] from None
                return [task.result() for task in tasks]

        return asyncio.run(all_of_them())

    async def _ask(self, client: httpx2.AsyncClient, method: str, path: str, body: Any) -> Any:
        url, attempt = f"{self.spec.url}{path}", 0
        while True:
            wait = min(LONGEST_SECONDS, FIRST_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)  # no secret
            try:
                answer = await client.request(method, url, json=body)
            except (httpx2.TransportError, httpx2.InvalidURL, UnicodeError) as error:  # the last of names of hosts
                problem = f"no answer: {str(error) or type(error).__name__}"
            else:
                if answer.status_code < 300:
                    return _plain(url, answer)
                if answer.status_code not in MAY_PASS:
                    raise _refusal(url, answer, self._key)
                said = _said(answer, self._key)
                problem = f"status {answer.status_code}{said and ': '}{said}"
                wait = max(wait, _retry_after(answer))
            attempt += 1
            if attempt > self.spec.retries or wait > 2 * LONGEST_SECONDS:
                asked = f"{attempt} times" if attempt > 1 else "once"
                later = f", and asks to wait {wait:.0f} s" if wait > 2 * LONGEST_SECONDS else ""
                raise EngineError(f"endpoint {url}: asked {asked}{later}; {problem}; see [engine] of the suite")
            await asyncio.sleep(wait)


def _silent(done: int, total: int) -> None:
    pass


def _plain(url: str, answer: httpx2.Response) -> Any:
    if not answer.content:
        return {}
    try:
        return answer.json()
    except ValueError:
        kind = answer.headers.get("content-type", "no type")
        if kind.startswith("text/plain"):  # of what loads an adapter
            return {}
        raise Refused(f"endpoint {url}: answered no JSON ({kind}); name an OpenAI-compatible server", 200) from None


def _refusal(url: str, answer: httpx2.Response, key: str) -> SuiteError:
    said = _said(answer, key)
    if answer.status_code == 400 and any(mark in said.lower() for mark in TOO_LONG):
        return PromptTooLong(f"endpoint {url}: {said}; shorten the prompt, or take fewer shots")
    remedy = "; it wants a key, which [engine] api_key_env names" if answer.status_code in (401, 403) else ""
    return Refused(
        f"endpoint {url}: status {answer.status_code}: {said or 'no reason given'}{remedy}", answer.status_code
    )


def _said(answer: httpx2.Response, key: str) -> str:
    """Return what a server says of an error, in one line, and without the key, which some repeat."""
    try:
        body = answer.json()
        error = body.get("error", body.get("message", body.get("detail", "")))
        if isinstance(error, dict):
            error = f"{error.get('message', error)} {error.get('code') or ''}"
    except (ValueError, AttributeError):
        error = ""
    text = " ".join(str(error).split())
    return (text.replace(key, "***") if key else text)[:300]


def _retry_after(answer: httpx2.Response) -> float:
    """Return the seconds that a server asks to wait: a number, or a date (RFC 9110, section 10.2.3)."""
    given = answer.headers.get("retry-after", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
