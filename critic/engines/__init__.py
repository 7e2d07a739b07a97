"""Text generation behind one protocol: transformers, vLLM, and OpenAI-compatible servers over HTTP."""
