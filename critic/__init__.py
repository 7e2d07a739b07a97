"""Train, run, measure, serve, release and audit a critic of image edits. Imports no stage or flow.

    from critic import Critic

    critic = Critic.load("models/grpo")
    critic.score("cat.png", "red.png", "make the cat red").score

Each package below has one kind of work, and says in its docstring what it holds. The modules beside them (prompts,
answers, pictures, tables, files...) are what several packages use; `critic.api` is the public face.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from critic.api import Critic

__all__ = ["Critic"]


def __getattr__(name: str) -> Any:
    """`Critic`, imported when it is first used: the command and the client don't need it."""
    if name in __all__:
        from critic import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
