"""Small random models and their known answers, made with Transformers: see `make.py`."""
