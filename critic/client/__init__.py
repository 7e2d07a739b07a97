"""A client of the service: sends edits over HTTP, returns scores.

    with Critic("http://127.0.0.1:3000") as critic:
        critic.score("cat.png", "red.png", "make the cat red").score
        critic.score_batch([(source, edited, instruction), ...], mode="expected")   # one result per edit, in order
        critic.compare(source, [edited, other], "make the cat red")[0].id           # the index of the best edit
        critic.rewards([(source, edited, instruction), ...], scale="unit")          # for trainers

`AsyncCritic` has the same methods as coroutines. Importing this package loads no model library.
"""

from critic.client.errors import BadInput, BadReply, CriticError, Refused, Unavailable
from critic.client.http import AsyncCritic, Critic, Edited, Picture, Reward, Scale

__all__ = [
    "AsyncCritic",
    "BadInput",
    "BadReply",
    "Critic",
    "CriticError",
    "Edited",
    "Picture",
    "Refused",
    "Reward",
    "Scale",
    "Unavailable",
]
