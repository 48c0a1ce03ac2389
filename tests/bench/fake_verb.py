"""A verb for tests: notes that it ran, fails if told to, and leaves a result."""

import json
import sys
from pathlib import Path

words = dict(word.partition("=")[::2] for word in sys.argv[1:])
out = Path(words["out"].strip('"'))
with (out / "ran").open("a") as notes:
    notes.write("once\n")
if words.get("fail") == "true":
    sys.exit("it fails as it was told to")
result = {"said": words["say"]} | ({"complete": False} if words.get("complete") == "false" else {})
(out / "result.json").write_text(json.dumps(result))
