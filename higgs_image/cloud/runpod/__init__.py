"""RunPod's REST API, version 2: its data, a client, its errors, and what is rendered for it."""
