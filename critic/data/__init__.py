"""Read, generate and check data, and write the samples of SFT and GRPO."""
