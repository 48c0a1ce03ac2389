"""The policy behind a websocket, and its client."""
