"""Ask a policy server with the official `openpi-client`, in an environment that has it, and print what it got.

python openpi_asks.py PORT TOKEN
"""

import json
import sys

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.image_tools import resize_with_pad
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, token = int(sys.argv[1]), sys.argv[2]
policy = WebsocketClientPolicy("127.0.0.1", port, api_key=token)
body = policy.get_server_metadata()["embodiment"]
frames = {name: resize_with_pad(np.full((96, 96, 3), 90, np.uint8), 64, 64) for name in body["cameras"]}
state = np.linspace(0.1, 0.3, len(body["state"]))
spellings = {
    "flat": {"observation/image": frames["front"], "observation/wrist_image": frames["wrist"]},
    "nested": {"images": frames},
    "channels_first": {"images": {name: frame.transpose(2, 0, 1) for name, frame in frames.items()}},
}
answers = {
    name: policy.infer({**images, "observation/state": state, "prompt": "pick up the red cube"})
    for name, images in spellings.items()
}
try:
    policy.infer({"prompt": "pick up the red cube"})
    error = ""
except RuntimeError as raised:
    error = str(raised)
broker = ActionChunkBroker(policy, action_horizon=body["action_horizon"])
steps = [broker.infer({"images": frames, "state": state, "prompt": "pick up the red cube"}) for _ in range(5)]
try:
    WebsocketClientPolicy("127.0.0.1", port, api_key=token + "x")
    wrong_token = ""
except Exception as raised:
    wrong_token = str(raised)

print(
    json.dumps(
        {
            "embodiment": body,
            "actions": {name: answer["actions"].tolist() for name, answer in answers.items()},
            "dtype": str(answers["flat"]["actions"].dtype),
            "timing": sorted(answers["nested"]["server_timing"]),
            "steps": [step["actions"].tolist() for step in steps],
            "error": error,
            "wrong_token": wrong_token,
        }
    )
)
