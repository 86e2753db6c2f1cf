"""Language models behind an OpenAI-compatible server: llama-server, vLLM, Ollama, hosted ones.

A server that takes a grammar is given one, as GBNF made from the proposal grammar. A program is looked
for in what the others write.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from attn_dsl.dsl.errors import AttnDslError
from attn_dsl.dsl.gbnf import to_gbnf
from attn_dsl.synth.llm.model import Completion, ModelError, Request
from attn_dsl.synth.llm.parse_output import extracted, read

TIMEOUT = 300.0  # how many seconds an answer may take
LONGEST = 1 << 20  # bytes of an answer that are read
AT_ONCE = 4  # requests on their way at the same time
CONTEXT = 8192  # tokens of context that are assumed where the server does not say
LLAMA = "llamacpp", "me"  # who owns the models of llama-server, and of the server of llama-cpp-python
CHARACTERS = 3  # characters that are counted as a token: the server's tokenizer is not at hand


class _Bounded(httpx.SyncByteStream):
    """The bytes of an answer, which must end in time and after ``LONGEST`` of them."""

    def __init__(self, stream: Any, ends: float) -> None:
        self.stream, self.ends = stream, ends

    def __iter__(self) -> Iterator[bytes]:
        read = 0
        for part in self.stream:
            read += len(part)
            if read > LONGEST or time.monotonic() > self.ends:
                raise ValueError(f"its answer does not end: {read:,} bytes came")
            yield part

    def close(self) -> None:
        """Close the connection."""
        self.stream.close()


class Server:
    """A model of an OpenAI-compatible server.

    The key is taken from ``OPENAI_API_KEY``, if it is set.

    Args:
        where: the base URL, as in ``http://localhost:8080/v1``, and behind ``#`` the model; the
            first that the server lists if none is named.

    Raises:
        ModelError: the server does not answer, or has no such model.
    """

    def __init__(self, where: str) -> None:
        import openai

        self._api, self._ends = openai, math.inf
        self.url, _, wanted = where.partition("#")
        key = os.environ.get("OPENAI_API_KEY") or "none"
        how = {"base_url": self.url, "timeout": TIMEOUT, "max_retries": 0}
        web = httpx.Client(follow_redirects=False,  # the prompt goes nowhere else
                           headers={"Accept-Encoding": "identity"},
                           event_hooks={"response": [self._bound]})  # fmt: skip
        self._client: Any = openai.OpenAI(api_key=key, http_client=web, **how)
        listed = self._ask(lambda: {str(m.id): dict(m) for m in self._client.models.list().data})
        if not listed or (wanted and wanted not in listed):
            have = f"it has {', '.join([*listed][:8])}" if listed else "it has none"
            raise ModelError(f"{self.url}: no model {wanted or 'at all'}; {have}")
        self.model = wanted or next(iter(listed))
        about = listed[self.model]
        self.owner, meta = about.get("owned_by"), about.get("meta") or {}
        self.context = int(about.get("max_model_len") or meta.get("n_ctx_train") or CONTEXT)
        self.name = f"{self.url}#{self.model}"
        # its weights are out of reach
        self.fingerprint = hashlib.sha256(self.name.encode()).hexdigest()[:16]

    def count(self, text: str) -> int:
        """Estimate the tokens of a prompt, rather too many."""
        return -(-len(text) // CHARACTERS)

    def complete(self, request: Request, stop: Callable[[], bool],
                 seconds: float = math.inf) -> Iterator[Completion]:  # fmt: skip
        """Ask for completions, some at once; see ``LanguageModel``."""
        self._ends = time.monotonic() + seconds
        constraint = self._constraint(request)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from pool.map(lambda i: self._one(request, i, constraint, stop), range(request.count))

    def _one(self, request: Request, number: int, constraint: dict[str, Any],
             stop: Callable[[], bool]) -> Completion:  # fmt: skip
        """Ask for one completion, unless it is to stop."""
        if stop():
            return Completion("", 0, True)
        turns = [{"role": "user", "content": request.prompt}]
        how = {"model": self.model, "temperature": request.temperature, "max_tokens": request.max_tokens,
               "seed": (request.seed + number) % 2**31, "extra_body": constraint}  # fmt: skip
        text, cut, tokens = self._ask(self._chat, messages=turns, **how)
        plain = constraint or request.other
        if plain or cut:
            return Completion(text if plain else extracted(text), tokens, cut)
        try:
            read(extracted(text), causal=request.causal)
        except AttnDslError as error:
            turns += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": f"{error}\n\nWrite the whole program again, mended:"},
            ]
            if not stop():
                text, cut, more = self._ask(self._chat, messages=turns, **how)
                tokens += more
        return Completion(extracted(text), tokens, cut)

    def _bound(self, response: httpx.Response) -> None:
        """Have an answer end in time and after ``LONGEST`` bytes."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ValueError("its answer is compressed, which it was not asked for")
        if response.is_redirect:
            raise ValueError(f"it points elsewhere, to {response.headers.get('Location')}; give that URL")
        ends = min(self._ends, time.monotonic() + TIMEOUT)
        response.stream = _Bounded(response.stream, ends)

    def _chat(self, **how: Any) -> tuple[str, bool, int]:
        """Ask once: the text, whether it was cut off, its tokens."""
        left = min(TIMEOUT, self._ends - time.monotonic())
        answer = self._client.chat.completions.create(**how, timeout=max(left, 0.1))
        if answer.model and self.model not in answer.model and answer.model not in self.model:
            raise ValueError(f"it answered with the model {answer.model} instead of {self.model}")
        choice, usage = answer.choices[0], answer.usage
        used = int(usage.completion_tokens) if usage else 0
        return str(choice.message.content), choice.finish_reason == "length", used

    def _ask(self, send: Callable[..., Any], **how: Any) -> Any:
        """Send a request, and say what went wrong in words."""
        try:
            return send(**how)
        except (self._api.OpenAIError, ValueError, TypeError, AttributeError, LookupError) as error:
            said = " ".join(str(error.__cause__ or error).split())[:300]
            raise ModelError(f"{self.url}: no answer of an OpenAI-compatible server ({type(error).__name__}: "
                             f"{said}); is it running, and does the URL end in /v1? It had {TIMEOUT:g} s; "
                             "--completion-tokens asks for less") from None  # fmt: skip

    def _constraint(self, request: Request) -> dict[str, Any]:
        """Return what tells the server the grammar and min-p; nothing if it takes none."""
        if self.owner not in (*LLAMA, "vllm"):
            return {}
        gbnf, min_p = to_gbnf(request.grammar), {"min_p": request.min_p}
        if self.owner in LLAMA:
            return min_p | {"grammar": gbnf, "cache_prompt": True}
        return min_p | {"structured_outputs": {"grammar": gbnf}, "guided_grammar": gbnf}
