"""Language models behind an OpenAI-compatible server: llama-server, vLLM, Ollama, hosted ones.

A server that takes a grammar is given one, as GBNF made from the proposal grammar. A program is looked
for in what the others write.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attn_dsl.dsl.gbnf import to_gbnf
from attn_dsl.synth.llm.grammar import proposal_grammar
from attn_dsl.synth.llm.model import Completion, ModelError, Request
from attn_dsl.synth.llm.parse_output import extracted

TIMEOUT = 300.0  # how many seconds an answer may take
AT_ONCE = 4  # requests on their way at the same time
CONTEXT = 8192  # tokens of context that are assumed where the server does not say
CHARACTERS = 3  # characters that are counted as a token: the server's tokenizer is not at hand


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

        self._api = openai
        self.url, _, wanted = where.partition("#")
        key = os.environ.get("OPENAI_API_KEY") or "none"
        how = {"base_url": self.url, "timeout": TIMEOUT, "max_retries": 0}
        self._client: Any = openai.OpenAI(api_key=key, **how)
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

    def complete(self, request: Request, stop: Callable[[], bool]) -> Iterator[Completion]:
        """Ask for completions, some at once; see ``LanguageModel``."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from pool.map(lambda i: self._one(request, i, stop), range(request.count))

    def _one(self, request: Request, number: int, stop: Callable[[], bool]) -> Completion:
        """Ask for one program, unless it is to stop."""
        if stop():
            return Completion("", 0, True)
        constraint = self._constraint(request.causal)
        text, cut, tokens = self._ask(self._chat, model=self.model, temperature=request.temperature,
                                      messages=[{"role": "user", "content": request.prompt}],
                                      seed=(request.seed + number) % 2**31, max_tokens=request.max_tokens,
                                      extra_body=constraint)  # fmt: skip
        return Completion(text if constraint else extracted(text), tokens, cut)

    def _chat(self, **how: Any) -> tuple[str, bool, int]:
        """Ask once: the text, whether it was cut off, its tokens."""
        answer = self._client.chat.completions.create(**how)
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

    def _constraint(self, causal: bool) -> dict[str, Any]:
        """Return what tells the server the grammar; nothing if it takes none."""
        if self.owner not in ("llamacpp", "vllm"):
            return {}
        gbnf = to_gbnf(proposal_grammar(causal))
        if self.owner == "llamacpp":
            return {"grammar": gbnf}
        return {"structured_outputs": {"grammar": gbnf}, "guided_grammar": gbnf}
