"""Language models behind an OpenAI-compatible server: llama-server, vLLM, Ollama, hosted ones.

Where the server takes a grammar it is given one (GBNF, made from the proposal grammar and tried in
a child process first); otherwise what it writes is parsed, and the error is told to it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from attn_dsl.dsl.gbnf import GrammarError, to_gbnf
from attn_dsl.synth.llm.grammar import NAME
from attn_dsl.synth.llm.model import Completion, ModelError, PromptKind, Sampling, too_long
from attn_dsl.synth.llm.reading import complaint, extracted, whole_terms

TIMEOUT_VARIABLE = "ATTN_DSL_LLM_TIMEOUT"
"""Environment variable: how many seconds an answer may take."""
TIMEOUT = 120.0
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

    prompt: PromptKind = "page"

    def __init__(self, where: str) -> None:
        import openai

        self._api = openai
        self.url, _, wanted = where.partition("#")
        try:
            self.timeout = float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT))
        except ValueError:
            raise ModelError(f"{TIMEOUT_VARIABLE} must be a number of seconds") from None
        self._client: Any = openai.OpenAI(
            base_url=self.url, api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=self.timeout, max_retries=0,
        )  # fmt: skip
        listed = self._ask(lambda: [dict(model) for model in self._client.models.list().data])
        names = [str(model.get("id")) for model in listed]
        if not names or (wanted and wanted not in names):
            have = f"it has {', '.join(names[:8])}" if names else "it has none"
            raise ModelError(f"{self.url}: no model {wanted or 'at all'}; {have}")
        self.model = wanted or names[0]
        about = listed[names.index(self.model)]
        self.owner = str(about.get("owned_by", ""))
        meta = about.get("meta")
        found = about.get("max_model_len") or (
            meta.get("n_ctx_train") if isinstance(meta, dict) else 0
        )
        self.context = int(found) if isinstance(found, int) and found > 0 else CONTEXT
        self.name = f"{self.url}#{self.model}"
        self._logprobs = True

    @property
    def fingerprint(self) -> str:
        """A hash of the server's address and the model's name: its weights are out of reach."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:16]

    @property
    def takes_grammar(self) -> bool:
        """Whether the server is of a kind that takes a grammar."""
        return self.owner in ("llamacpp", "vllm")

    def count(self, text: str) -> int:
        """Estimate the tokens of a prompt, rather too many."""
        return -(-len(text) // CHARACTERS)

    def complete(
        self, prompt: str, grammar: str, count: int, seed: int, sampling: Sampling,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Completion]:  # fmt: skip
        """Ask for completions, some at once; see ``LanguageModel``.

        If the server fails on the way, the error has what came before.
        """
        tokens = self.count(prompt)
        if tokens + 16 > self.context:
            raise too_long(self.name, tokens, self.context)
        more = self._constraint(grammar)
        causal = f"head {NAME} causal" in grammar.partition("\n")[0]
        done: list[Completion] = []

        def one(number: int) -> Completion | None:
            if stop():
                return None
            return self._one(prompt, more, causal, (seed + number) % 2**31, sampling)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures = [pool.submit(one, number) for number in range(count)]
            try:
                for future in futures:
                    found = future.result()
                    done.append(found or Completion("", None, 0, True))
            except ModelError as error:
                error.done = done
                raise
            finally:
                for future in futures:
                    future.cancel()
        return done

    def _one(
        self, prompt: str, more: dict[str, Any], causal: bool, seed: int, sampling: Sampling
    ) -> Completion:
        """Ask for one program; without a grammar, again with what is wrong with it."""
        turns = [{"role": "user", "content": prompt}]
        logprob, tokens = None, 0
        for attempt in range(1 + (0 if more else CORRECTIONS)):
            text, truncated, logprob, used = self._chat(turns, more, seed, sampling)
            tokens += used
            program = text if more else extracted(text)
            if truncated:
                cut = whole_terms(program.rstrip("\n")) or ""
                return Completion(cut, logprob, tokens, True)
            wrong = None if more else complaint(program, causal=causal)
            if wrong is None:
                return Completion(program, logprob, tokens, False)
            if attempt == CORRECTIONS:
                break
            turns += [
                {"role": "assistant", "content": text},
                {
                    "role": "user",
                    "content": f"{wrong}\n\nWrite the whole program again, corrected.",
                },
            ]
        return Completion(program, logprob, tokens, True)

    def _chat(
        self, turns: list[dict[str, str]], more: dict[str, Any], seed: int, sampling: Sampling
    ) -> tuple[str, bool, float | None, int]:
        """Ask once: the text, whether it was cut off, its log-probability, its tokens."""

        def send(logprobs: bool) -> tuple[str, bool, float | None, int]:
            extra: dict[str, Any] = {"extra_body": more} if more else {}
            if logprobs:
                extra["logprobs"] = True
            answer: Any = self._client.chat.completions.create(
                model=self.model, messages=turns, seed=seed, temperature=sampling.temperature,
                top_p=sampling.top_p, max_tokens=sampling.max_tokens, **extra,
            )  # fmt: skip
            choice = answer.choices[0]
            listed = getattr(choice.logprobs, "content", None) or []
            logprob = sum(float(item.logprob) for item in listed) if listed else None
            used = int(answer.usage.completion_tokens) if answer.usage else len(listed)
            return str(choice.message.content), choice.finish_reason == "length", logprob, used

        logprobs = self._logprobs
        try:
            return self._ask(lambda: send(logprobs))
        except _RefusedError:
            if not logprobs:
                raise
            self._logprobs = False  # some servers do not give them
            return self._ask(lambda: send(False))

    def _ask(self, send: Callable[[], Any]) -> Any:
        """Send a request, and say what went wrong in words."""
        api = self._api
        try:
            return send()
        except api.APITimeoutError:
            raise ModelError(
                f"{self.url}: no answer within {self.timeout:g} s; give it more by the variable "
                f"{TIMEOUT_VARIABLE}, or ask for less by --completion-tokens"
            ) from None
        except api.APIConnectionError as error:
            raise ModelError(
                f"{self.url}: cannot be reached ({error.__cause__ or error}); start the server, or "
                "correct --llm"
            ) from None
        except api.APIStatusError as error:
            said = " ".join(str(error.message).split())[:300]
            kind = _RefusedError if error.status_code in (400, 422) else ModelError
            raise kind(f"{self.url}: the server refused ({error.status_code}): {said}") from None
        except (api.OpenAIError, ValueError, TypeError, AttributeError, LookupError) as error:
            first = (str(error).strip().splitlines() or [""])[0][:200]
            raise ModelError(
                f"{self.url}: the answer is not one of an OpenAI-compatible server "
                f"({type(error).__name__}: {first}); does the URL end in /v1?"
            ) from None

    def _constraint(self, grammar: str) -> dict[str, Any]:
        """Return what tells the server the grammar; nothing if it takes none."""
        if not self.takes_grammar:
            return {}
        gbnf = tried(grammar)
        if self.owner == "llamacpp":
            return {"grammar": gbnf}
        return {"structured_outputs": {"grammar": gbnf}, "guided_grammar": gbnf}


class _RefusedError(ModelError):
    """The server understood a request and did not like it."""


_TRIAL = """
import sys, llama_cpp
text = sys.stdin.buffer.read()
sys.exit(0 if llama_cpp.llama_sampler_init_grammar(None, text, b"root") else 3)
"""


@lru_cache(maxsize=8)
def tried(grammar: str) -> str:
    """Convert a grammar to GBNF and let llama.cpp read it in a process of its own, if it is installed.

    Raises:
        GrammarError: it cannot be converted, or llama.cpp refuses it or dies of it.
    """
    import importlib.util

    gbnf = to_gbnf(grammar)
    if importlib.util.find_spec("llama_cpp") is not None:
        try_gbnf(gbnf)
    return gbnf


def try_gbnf(gbnf: str) -> None:
    """Let llama.cpp read a GBNF in a child process: on some it ends the process.

    Raises:
        GrammarError: it refuses the grammar, or dies of it.
    """
    try:
        made = subprocess.run(
            [sys.executable, "-c", _TRIAL], input=gbnf.encode(), capture_output=True, timeout=120,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise GrammarError("llama.cpp does not come to an end with the GBNF") from None
    if made.returncode:
        said = made.stderr.decode(errors="replace").strip().splitlines()[-1:]
        how = (
            "refuses the GBNF" if made.returncode == 3 else f"died of the GBNF ({made.returncode})"
        )
        raise GrammarError(f"llama.cpp {how}{': ' + said[0] if said else ''}")
