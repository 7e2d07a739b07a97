"""The public face: load a critic, and score edits.

    from critic import Critic

    with Critic.load("models/grpo") as critic:                 # a folder, a name on the hub, or a server's address
        result = critic.score("cat.png", "red.png", "make the cat red")
        print(result.score, result.reasoning)                  # 4.25 The cat is red now...
        results = critic.score_many("pairs.csv")               # or a DataFrame, or (source, edited, instruction)s

Every edit ends in a `critic.results.Result`: a score, or a status and the reason why there is none. `load` loads
the model in this process, unless it is given the address of a server.
"""

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, cast

from tqdm import tqdm

from critic import client, pictures
from critic.client.schemas import Options
from critic.extras import needs
from critic.results import BadPair, Result, score_batch

if TYPE_CHECKING:
    import pandas as pd

    from critic.edits import Edit
    from critic.engines.base import Engine
    from critic.engines.load import Kind
    from critic.prompts import Contract
    from critic.scoring.inputs import Pairs

Picture: TypeAlias = client.Picture
Edited: TypeAlias = tuple[Picture, Picture, str]
"""An edit: the source, the edited picture, and the instruction."""

_SERVER = re.compile(r"https?://", re.IGNORECASE)
_OPENAI = re.compile(r"/v\d+/?(#.*)?$")
_BATCHES_AT_ONCE = 4
"""Batches in one call of an engine, which idles less at their ends the longer a call is."""

_log = logging.getLogger(__name__)


class Critic:
    """A critic that is ready to score. Threads may share it."""

    def __init__(self, backend: "_Backend", description: str):
        """Use `load`."""
        self._backend, self._description = backend, description

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        engine: Literal["transformers", "vllm"] | None = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
        contract: str | None = None,
        revision: str | None = None,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        key_variable: str | None = None,
    ) -> Self:
        """Load a critic, or connect to one.

        Args:
            model: the folder of a critic; a name on the hub, `owner/name`; the address of this project's service
                (`http://127.0.0.1:3000`); or that of an OpenAI-compatible server up to `/v1`, with `#NAME` after
                it if it has several models.
            engine: None takes vLLM on a GPU, and transformers without one or without vLLM.
            dtype: of the weights; None takes bfloat16 on a GPU, and float32 without one.
            contract: the prompt contract, by name or as the path of a .yaml file; None takes the one in the folder
                or repository. An OpenAI-compatible server has none.
            revision: commit, branch or tag of a name on the hub.
            max_tokens: tokens of a response, reasoning included; None for 1024.
            batch_size: edits at a time; None for 64. The client of a service has its own.
            key_variable: the environment variable with the key of a server. None: no key, and for a service that
                of CRITIC_API_KEY if it is set.

        Raises:
            ValueError: a service has an engine, a contract and limits of its own, so none can be chosen; or the
                variable of the key isn't set.
            critic.checkpoints.CheckpointError: there is no such model, or it can't be loaded.
            critic.engines.http.ServerError: the server can't be used.
            critic.prompts.ContractError: no contract is known, or it can't be used.
            critic.extras.MissingExtra: scoring in this process needs packages that aren't installed.
        """
        name = os.fspath(model)
        if key_variable is not None and not os.environ.get(key_variable):
            raise ValueError(f"the environment variable {key_variable} is not set or empty: set it to the key")
        if _SERVER.match(name) and not _OPENAI.search(name):
            given: dict[str, Any] = {"engine": engine, "dtype": dtype, "contract": contract, "revision": revision}
            given |= {"max_tokens": max_tokens, "batch_size": batch_size}
            own = [of for of, value in given.items() if value is not None]
            if own:
                raise ValueError(f"the service at {name} has its own {' and '.join(own)}: leave it out here")
            key = None if key_variable is None else os.environ[key_variable]
            return cls(_Service(name, client.Critic(name, api_key=key)), f"{name}, a service")
        with needs("score", "Critic.load, to score in this process,"):
            from critic.engines.load import contract_of, default_dtype, default_engine, open_engine
            from critic.prompts import ContractError, load_contract

        if _SERVER.match(name):
            if contract is None:
                raise ContractError(f"{name} doesn't give its prompt contract: name it, as contract='ie-critic'")
            chosen, how = load_contract(contract), "an OpenAI-compatible server"
            kind: Kind = "http"
        else:
            chosen, kind = contract_of(name, contract, revision), engine or default_engine()
            dtype = dtype or default_dtype(kind, name, revision)
            how = f"{kind} in {dtype}"
        batch_size = batch_size or 64
        with needs("score", f"the engine {kind}"):
            opened = open_engine(
                kind,
                name,
                chosen,
                max_tokens=max_tokens or 1024,
                revision=revision,
                dtype=dtype,
                batch_size=batch_size,
                key_variable=key_variable,
            )
        critic = cls(
            _Here(opened, chosen, _BATCHES_AT_ONCE * batch_size),
            f"{name}, {how}, contract {chosen.name} version {chosen.version}",
        )
        _log.info("%s", critic)
        if chosen.notice:
            _log.warning("%s: %s", name, chosen.notice)
        return critic

    def __repr__(self) -> str:
        return f"<Critic {self._description}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine and its memory, or close the connections. The critic can't score afterwards.

        With vLLM this ends all process groups of torch.distributed in this process: inside a distributed trainer,
        use a service instead.
        """
        self._backend.close()

    def score(
        self, source: Picture | None, edited: Picture, instruction: str, *, id: str = "0", **how: Any
    ) -> Result:
        """Score one edit.

        Args:
            source: None for a picture that was made from a text, which is then `instruction`.
            id: part of the seed in mode "average".
            how: mode, samples, temperature and seed, see `critic.client.schemas.Options`.

        Raises:
            pydantic.ValidationError: an option is invalid.
        """
        (result,) = self._backend.score([Asked(id, source, edited, instruction)], Options(**how))
        return result

    def score_many(
        self,
        edits: "str | os.PathLike[str] | pd.DataFrame | Iterable[Edited]",
        *,
        progress: bool = True,
        **how: Any,
    ) -> list[Result]:
        """Score edits: one result for each, in order.

        Args:
            edits: a table or folder as `critic score` reads them (docs/score.md), a DataFrame with the same
                columns, or edits, whose ids are then their indices, from 0.
            progress: show a bar, if there is a terminal.
            how: as in `score`.

        Raises:
            critic.tables.TableError: the table can't be read.
            pydantic.ValidationError: an option is invalid.
        """
        options, rows = Options(**how), self._rows(edits)
        results: list[Result] = []
        with tqdm(total=len(rows), desc="scoring", unit=" edits", disable=None if progress else True) as bar:
            for start in range(0, len(rows), self._backend.at_once):
                batch = [row() for row in rows[start : start + self._backend.at_once]]
                results += score_batch(batch, partial(self._backend.score, options=options))
                bar.update(len(batch))
        return results

    def _rows(
        self, edits: "str | os.PathLike[str] | pd.DataFrame | Iterable[Edited]"
    ) -> "Sequence[Callable[[], Asked | Edit | BadPair]]":
        """The rows of what was given, each read when it is called."""
        if not (isinstance(edits, str | os.PathLike) or hasattr(edits, "columns")):
            return [partial(Asked, str(number), *edit) for number, edit in enumerate(edits)]
        with needs("eval", "score_many, to read a table,"):
            from critic.scoring.inputs import read_pairs, table_pairs
        by_path = isinstance(edits, str | os.PathLike)
        pairs = read_pairs(Path(cast(str, edits))) if by_path else table_pairs(cast("pd.DataFrame", edits))
        return [partial(self._backend.row, pairs, number) for number in range(len(pairs))]

    async def score_async(
        self, source: Picture | None, edited: Picture, instruction: str, *, id: str = "0", **how: Any
    ) -> Result:
        """`score`, in a thread."""
        return await asyncio.to_thread(self.score, source, edited, instruction, id=id, **how)

    async def score_many_async(
        self, edits: "str | os.PathLike[str] | pd.DataFrame | Iterable[Edited]", **how: Any
    ) -> list[Result]:
        """`score_many`, in a thread."""
        return await asyncio.to_thread(self.score_many, edits, **how)


@dataclass(frozen=True)
class Asked:
    """An edit as it was given, its pictures unread."""

    id: str
    source: Picture | None
    edited: Picture
    instruction: str


class _Backend(Protocol):
    """What scores edits, here or elsewhere; `at_once` in one call."""

    at_once: int

    def row(self, pairs: "Pairs", number: int) -> "Asked | Edit | BadPair":
        """A row of a table, in the form that `score` needs."""

    def score(self, edits: "Sequence[Asked | Edit]", options: Options) -> list[Result]: ...

    def close(self) -> None: ...


class _Here:
    """An engine of this process, for one call at a time."""

    def __init__(self, engine: "Engine", contract: "Contract", at_once: int):
        self._engine: Engine | None = engine
        self._contract, self.at_once, self._alone = contract, at_once, Lock()

    def row(self, pairs: "Pairs", number: int) -> "Asked | Edit | BadPair":
        return replace(pairs, resize=self._contract.resize)[number]

    def score(self, edits: "Sequence[Asked | Edit]", options: Options) -> list[Result]:
        from critic.scoring.scorer import Scorer

        with self._alone:
            if self._engine is None:
                raise RuntimeError("this critic is closed: load it again")
            scorer = Scorer(self._engine, self._contract, **dict(options))
            return score_batch([self._read(edit) for edit in edits], scorer)

    def close(self) -> None:
        with self._alone:
            if self._engine is not None and hasattr(self._engine, "close"):
                self._engine.close()
            self._engine = None

    def _read(self, edit: "Asked | Edit") -> "Edit | BadPair":
        """The edit with its pictures in the contract's sizes, so that large ones aren't kept."""
        from critic.edits import Edit

        if edit.source is None and self._contract.generated_text is None:
            return BadPair(edit.id, f"contract {self._contract.name} can't judge a picture without a source")
        if not isinstance(edit.instruction, str):
            return BadPair(edit.id, f"instruction: {edit.instruction!r:.40} is not text")
        if isinstance(edit, Edit):
            return edit
        given = [picture for picture in (edit.source, edit.edited) if picture is not None]
        try:
            *source, edited = [self._contract.resize(pictures.read(picture)) for picture in given]
        except (OSError, ValueError) as error:
            return BadPair(edit.id, f"{error!s:.300}")
        return Edit(edit.id, source[0] if source else None, edited, edit.instruction)


class _Service:
    """A service of this project."""

    def __init__(self, address: str, service: client.Critic):
        self._address, self._client, self.at_once = address, service, 64
        self._said: set[str] = set()

    def row(self, pairs: "Pairs", number: int) -> Asked | BadPair:
        """The row with its files unread: the service decodes them."""
        found = pairs.files(number)
        return found if isinstance(found, BadPair) else Asked(pairs.ids[number], *found)

    def score(self, edits: "Sequence[Asked | Edit]", options: Options) -> list[Result]:
        return score_batch([self._check(edit) for edit in edits], partial(self._ask, options))

    def close(self) -> None:
        self._client.close()

    def _check(self, edit: "Asked | Edit") -> "Asked | Edit | BadPair":
        if edit.source is None:
            return BadPair(edit.id, "the service needs a source picture")
        if not isinstance(edit.instruction, str):
            return BadPair(edit.id, f"instruction: {edit.instruction!r:.40} is not text")
        return edit

    def _ask(self, options: Options, edits: "Sequence[Asked | Edit]") -> list[Result]:
        pairs = [(edit.source, edit.edited, edit.instruction) for edit in edits if edit.source is not None]
        scored = self._client.score_batch(pairs, ids=[edit.id for edit in edits], **dict(options))
        for notice in {one.notice for one in scored} - self._said - {""}:
            _log.warning("%s: %s", self._address, notice)
            self._said.add(notice)
        return [Result(**{field.name: getattr(one, field.name) for field in fields(Result)}) for one in scored]
