"""What SFT and GRPO share: set-up, resume, curves, rewards, rollouts and the checks on them."""
