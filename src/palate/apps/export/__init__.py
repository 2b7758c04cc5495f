"""Bundles as files that other engines serve: merged weights, LoRA beside a base, GGUF. `palate export`."""
