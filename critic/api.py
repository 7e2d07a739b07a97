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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
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
_AT_ONCE = 256
"""Edits in one call of an engine, which makes batches of its own: so many pairs of pictures are in memory."""

_log = logging.getLogger(__name__)


class Critic:
    """A critic that is ready to score. Threads may share it; edits are scored in the order of the calls."""

    def __init__(self, backend: "_Backend", description: str):
        """Use `load`."""
        self._backend, self._description = backend, description

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        engine: "Kind | None" = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
        contract: str | None = None,
        revision: str | None = None,
        max_tokens: int = 1024,
        batch_size: int = 64,
        key_variable: str = "CRITIC_API_KEY",
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
            max_tokens: tokens of a response, reasoning included.
            batch_size: edits at a time.
            key_variable: the environment variable with the key of a server, if that needs one.

        Raises:
            critic.checkpoints.CheckpointError: there is no such model, or it can't be loaded.
            critic.prompts.ContractError: no contract is known, or it can't be used.
            critic.extras.MissingExtra: scoring in this process needs packages that aren't installed.
        """
        name = os.fspath(model)
        if _SERVER.match(name) and not _OPENAI.search(name):
            service = client.Critic(name, api_key=os.environ.get(key_variable))
            return cls(_Service(name, service), f"{name}, a service")
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
            dtype = dtype or default_dtype()
            how = f"{kind} in {dtype}"
        opened = open_engine(
            kind,
            name,
            chosen,
            max_tokens=max_tokens,
            revision=revision,
            dtype=dtype,
            batch_size=batch_size,
            key_variable=key_variable if key_variable in os.environ else None,
        )
        critic = cls(_Here(opened, chosen), f"{name}, {how}, contract {chosen.name} version {chosen.version}")
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
        """Free the engine and its memory, or close the connections. The critic can't score afterwards."""
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
        options, rows = Options(**how), _rows(edits)
        results: list[Result] = []
        with tqdm(total=len(rows), desc="scoring", unit=" edits", disable=None if progress else True) as bar:
            for start in range(0, len(rows), _AT_ONCE):
                batch = [rows[number] for number in range(start, min(start + _AT_ONCE, len(rows)))]
                results += score_batch(batch, partial(self._backend.score, options=options))
                bar.update(len(batch))
        return results

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
    """What scores edits, here or elsewhere."""

    def score(self, edits: Sequence[Asked], options: Options) -> list[Result]: ...

    def close(self) -> None: ...


class _Here:
    """An engine of this process, for one call at a time."""

    def __init__(self, engine: "Engine", contract: "Contract"):
        self._engine, self._contract, self._alone = engine, contract, Lock()

    def score(self, edits: Sequence[Asked], options: Options) -> list[Result]:
        from critic.scoring.scorer import Scorer

        scorer = Scorer(self._engine, self._contract, **dict(options))
        with self._alone:
            return score_batch([_read(edit) for edit in edits], scorer)

    def close(self) -> None:
        if hasattr(self._engine, "close"):
            self._engine.close()


@dataclass(frozen=True)
class _Service:
    """A service of this project."""

    address: str
    client: client.Critic

    def score(self, edits: Sequence[Asked], options: Options) -> list[Result]:
        return score_batch([self._check(edit) for edit in edits], partial(self._ask, options))

    def _check(self, edit: Asked) -> Asked | BadPair:
        return edit if edit.source is not None else BadPair(edit.id, "the service needs a source picture")

    def _ask(self, options: Options, edits: Sequence[Asked]) -> list[Result]:
        pairs = [(edit.source, edit.edited, edit.instruction) for edit in edits if edit.source is not None]
        scored = self.client.score_batch(pairs, ids=[edit.id for edit in edits], **dict(options))
        for notice in {one.notice for one in scored} - {""}:
            _log.warning("%s: %s", self.address, notice)
        return [Result(**{field.name: getattr(one, field.name) for field in fields(Result)}) for one in scored]

    def close(self) -> None:
        self.client.close()


def _read(edit: Asked) -> "Edit | BadPair":
    from critic.edits import Edit

    try:
        source = None if edit.source is None else pictures.read(edit.source)
        return Edit(edit.id, source, pictures.read(edit.edited), edit.instruction)
    except (OSError, pictures.PictureError) as error:
        return BadPair(edit.id, str(error))


def _rows(edits: "str | os.PathLike[str] | pd.DataFrame | Iterable[Edited]") -> "Sequence[Asked | BadPair]":
    """The rows of what was given, read as they are reached."""
    if isinstance(edits, str | os.PathLike):
        with needs("eval", "score_many, to read a table,"):
            from critic.scoring.inputs import read_pairs

        return _Table(read_pairs(Path(edits)))
    if hasattr(edits, "columns"):
        from critic.scoring.inputs import table_pairs

        return _Table(table_pairs(cast("pd.DataFrame", edits)))
    return [Asked(str(number), *edit) for number, edit in enumerate(edits)]


@dataclass(frozen=True)
class _Table(Sequence["Asked | BadPair"]):
    pairs: "Pairs"

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: Any) -> Any:
        pair = self.pairs[row]
        return pair if isinstance(pair, BadPair) else Asked(pair.id, pair.source, pair.edited, pair.instruction)
