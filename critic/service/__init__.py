"""The critic as a service: BentoML in front of vLLM.

    make serve                                         # http://127.0.0.1:3000, the tiny critic
    CRITIC_MODEL=models/grpo bentoml serve critic.service.bento:Critic

`bento` is the BentoML service, `app` its HTTP interface, `schemas` what goes in and out, `settings` what an
operator may choose. `supervisor` keeps vLLM running, `intake` and `fetching` take pictures from strangers,
`keys` and `admission` say who is served and when. `feedback` keeps people's own scores, `receipts` say of what,
and `keeping` keeps the pictures where that is wanted. `page` mounts the web page, the plain files of web/, whose
examples `examples` makes. `packaging` makes Bentos of critics, and `image` says what their containers are made of.
"""
