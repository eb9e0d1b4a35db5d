"""The workers: they claim jobs and drive sandboxes with a vision model, step by step."""
