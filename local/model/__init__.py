"""A scripted model behind an OpenAI-compatible endpoint: it knows a few things by heart."""
