"""The critic's domain: prompts, answers, rewards, metrics, engines, data. Imports no stage or flow."""
