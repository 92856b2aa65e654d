"""An OpenAI-compatible server over one base model and its adapters."""
