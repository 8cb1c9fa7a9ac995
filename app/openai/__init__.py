"""The OpenAI-compatible surface: its shapes, and how ours become them. No I/O in here."""
