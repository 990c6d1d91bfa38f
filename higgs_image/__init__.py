"""The pipeline from versions.lock to a tested, pushed image. It knows nothing of Invoke."""
