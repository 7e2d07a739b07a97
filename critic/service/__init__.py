"""The critic as a service: BentoML in front of vLLM.

    make serve                                                           # http://127.0.0.1:3000, models/grpo
    CRITIC_MODEL=models/sft bentoml serve critic.service.bento:Critic    # a folder, or a name on the hub
    bentoml serve edit_critic:latest                                     # a Bento, which has a critic in it

A request passes through `middleware` (id, key by `keys`, size), `app` (routes), `input_checks`, `fetching` or
`chat_filter` (untrusted input), `concurrency` (limit) and `scoring_queue` to vLLM, which `supervisor` runs.
`bento` is the entry point and `settings` are the environment variables. `page` serves web/. `packaging` builds
Bentos, `image` their containers, and `smoke` tests them.
"""
