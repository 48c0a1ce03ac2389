"""The official openpi client, in an environment of its own since it pins NumPy 1, works unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.serve.gated import Start
from vla.model.policy import VLAPolicy
from vla.types import Observation

PACKAGES = ("openpi-client==0.1.2", "typing-extensions")  # the second is imported by the first and not declared
VARIABLE = "OPENPI_PYTHON"  # the interpreter of an environment that has them, instead of making one


@pytest.fixture(scope="module")
def openpi_python(pytestconfig: pytest.Config) -> str:
    """The interpreter of an environment with openpi-client, made once and kept in pytest's cache."""
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("openpi-client-0.1.2")
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"openpi-client cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
        complete.touch()
    return str(python)


@pytest.mark.slow
def test_the_official_client_works_unchanged(openpi_python: str, start: Start, policy: VLAPolicy) -> None:
    server = start(token="sesame")
    script = Path(__file__).parent / "openpi_asks.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [openpi_python, str(script), server.address.rpartition(":")[2], "sesame"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])

    frame = np.full((64, 64, 3), 90, np.uint8)
    state = np.linspace(0.1, 0.3, 3).astype(np.float32)
    chunk = policy.act([Observation({"front": frame, "wrist": frame}, state, "pick up the red cube", 0.0)])[0]
    for actions in got["actions"].values():
        np.testing.assert_allclose(actions, chunk.actions, atol=1e-5)
    assert got["dtype"] == "float32"
    assert got["embodiment"]["cameras"].keys() == {"front", "wrist"}
    assert {"infer_ms", "prev_total_ms"} <= set(got["timing"])
    np.testing.assert_allclose(got["steps"], [*chunk.actions, chunk.actions[0]], atol=1e-5)
    assert got["error"].startswith("Error in inference server:")
    assert json.loads(got["error"].splitlines()[1])["error"] == "bad_request" and "Traceback" not in got["error"]
    assert "401" in got["wrong_token"]
