"""Language models behind an OpenAI-compatible server: llama-server, vLLM, Ollama, hosted ones.

A server that takes a grammar is given one, as GBNF made from the proposal grammar. What the others
write is parsed and checked, and they are told of the error.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attn_dsl.dsl.errors import AttnDslError
from attn_dsl.dsl.gbnf import to_gbnf
from attn_dsl.synth.llm.grammar import proposal_grammar
from attn_dsl.synth.llm.model import Completion, ModelError, Request
from attn_dsl.synth.llm.parse_output import extracted, read, whole_terms

TIMEOUT_VARIABLE, TIMEOUT = "ATTN_DSL_LLM_TIMEOUT", 120.0
"""Environment variable: how many seconds an answer may take; and its default."""
AT_ONCE = 4
"""Requests on their way at the same time."""
CORRECTIONS = 2
"""How often a server without grammars is told what is wrong with a program."""
CONTEXT = 8192
"""Tokens of context that are assumed where the server does not say."""
CHARACTERS = 3
"""Characters that are counted as a token: the server's tokenizer is not at hand."""


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
        try:
            self.timeout = float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT))
        except ValueError:
            raise ModelError(f"{TIMEOUT_VARIABLE} must be a number of seconds") from None
        key = os.environ.get("OPENAI_API_KEY") or "none"
        how = {"base_url": self.url, "timeout": self.timeout, "max_retries": 0}
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

    def complete(self, request: Request, stop: Callable[[], bool]) -> list[Completion]:
        """Ask for completions, some at once; see ``LanguageModel``.

        If the server fails on the way, the error has what came before.
        """

        def one(number: int) -> Completion:
            return Completion("", 0, True) if stop() else self._one(request, number)

        done: list[Completion] = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures = [pool.submit(one, number) for number in range(request.count)]
            try:
                done.extend(future.result() for future in futures)
            except ModelError as error:
                error.done = done
                raise
            finally:
                for future in futures:
                    future.cancel()
        return done

    def _one(self, request: Request, number: int) -> Completion:
        """Ask for one program; without a grammar, again with what is wrong with it."""
        more = self._constraint(request.causal)
        turns, tokens = [{"role": "user", "content": request.prompt}], 0
        for _ in range(1 if more else 1 + CORRECTIONS):
            how: dict[str, Any] = {
                "model": self.model, "messages": turns, "temperature": request.temperature,
                "seed": (request.seed + number) % 2**31, "max_tokens": request.max_tokens,
                "extra_body": more,
            }  # fmt: skip
            text, cut, used = self._ask(functools.partial(self._chat, how))
            tokens += used
            program = text if more else extracted(text)
            if cut:
                return Completion(whole_terms(program), tokens, truncated=True)
            try:
                if not more:
                    read(program, causal=request.causal, name="your program")
                return Completion(program, tokens, truncated=False)
            except AttnDslError as error:
                wrong = f"{error}\n\nWrite the whole program again, corrected."
            answers = {"role": "assistant", "content": text}, {"role": "user", "content": wrong}
            turns = [*turns, *answers]
        return Completion(program, tokens, truncated=True)

    def _chat(self, how: dict[str, Any]) -> tuple[str, bool, int]:
        """Ask once: the text, whether it was cut off, its tokens."""
        answer = self._client.chat.completions.create(**how)
        choice, usage = answer.choices[0], answer.usage
        used = int(usage.completion_tokens) if usage else 0
        return str(choice.message.content), choice.finish_reason == "length", used

    def _ask(self, send: Callable[[], Any]) -> Any:
        """Send a request, and say what went wrong in words."""
        api = self._api
        try:
            return send()
        except api.APITimeoutError:
            wrong = (
                f"no answer within {self.timeout:g} s; give it more by the variable "
                f"{TIMEOUT_VARIABLE}, or ask for less by --completion-tokens"
            )
        except (api.OpenAIError, ValueError, TypeError, AttributeError, LookupError) as error:
            said = " ".join(str(error.__cause__ or error).split())[:300]
            wrong = (
                f"no answer of an OpenAI-compatible server ({type(error).__name__}: {said}); is it "
                "running, and does the URL end in /v1?"
            )
        raise ModelError(f"{self.url}: {wrong}")

    def _constraint(self, causal: bool) -> dict[str, Any]:
        """Return what tells the server the grammar; nothing if it takes none."""
        if self.owner not in ("llamacpp", "vllm"):
            return {}
        gbnf = to_gbnf(proposal_grammar(causal))
        if self.owner == "llamacpp":
            return {"grammar": gbnf}
        return {"structured_outputs": {"grammar": gbnf}, "guided_grammar": gbnf}
