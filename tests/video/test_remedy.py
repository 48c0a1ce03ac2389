"""The script that puts recordings right does what it says, and nothing else, whatever things are called."""

import os
import shutil
import subprocess
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from tests.video.scenes import record
from tests.video.test_decode import write as encode
from vla.video.decode import VideoClip
from vla.video.flag import ERROR, NOTE, WARNING, Flag
from vla.video.remedy import remedy
from vla.video.source import Item

IDLE = Flag("idle_start", NOTE, "", 0.0, 2.5, "nothing moves")
BROKEN = Flag("damaged", ERROR, "top", 0.0, 1.0, "broken")
DULL = Flag("blurred", WARNING, "top", 0.0, 1.0, "dull")
NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
SHELL = """PATH=/nowhere
lerobot-edit-dataset() { printf 'lerobot %s\\0' "$#" "$@"; }
ffmpeg() { printf 'ffmpeg %s\\0' "$#" "$@"; }
"""


def everything(name: str, folder: Path) -> list[str]:
    """Return the lines about files and episodes of this name, broken and idle ones."""
    broken, idle = Item(name, folder / name, {}), Item(f"{name} idle", folder / name, {})
    episodes = [Item(f"{name} episode {k}", folder / name, {}, episode=k, fps=10.0, rows=5) for k in range(2)]
    return remedy([broken, idle, *episodes], [[BROKEN], [IDLE], [BROKEN], [IDLE]])


def test_remedies_are_commands_that_do_what_they_say(tmp_path):
    path = encode(tmp_path / "it's; rm -rf $HOME.mp4", record(1, rest_s=0.8, speed=25.0).frames)
    video = Item("a", path, {"video": VideoClip(path)})
    episodes = [Item(f"episode {k}", tmp_path / "my data", {}, episode=k, fps=10.0, rows=5) for k in range(3)]
    lines = remedy([video, *episodes], [[IDLE], [BROKEN], [DULL], [BROKEN, IDLE]])
    assert lines[0].endswith("to drop: [0, 2]") and '--operation.episode_indices "[0, 2]"' in lines[1]
    assert f"--root '{tmp_path}/my data'" in lines[1]
    (cut,) = lines[2:]
    if shutil.which("ffmpeg"):
        subprocess.run(cut, shell=True, check=True, capture_output=True, timeout=120)
        assert path.with_name("it's; rm -rf $HOME-trimmed.mp4").stat().st_size > 0
    assert cut.startswith("ffmpeg -ss 2.50 -i '")


@given(NAMES.map(os.fsdecode), st.sampled_from([Path("/data"), Path()]))
@example("x\ntouch owned", Path())
@example("x\rtouch owned\x0b\u2028\x85\udcff", Path("/data"))
@example("-y'$(touch owned)`touch owned`\\", Path())
def test_no_name_becomes_a_command_or_an_option(name, folder):
    lines = everything(name, folder)
    assert "\n".join(lines).splitlines() == lines
    assert [line.split()[0] for line in lines if not line.startswith("#")] == ["lerobot-edit-dataset", "ffmpeg"]
    script = os.fsencode(SHELL + "\n".join(lines))
    subprocess.run(["bash", "-n"], input=script, check=True, capture_output=True, timeout=60)
    ran = subprocess.run(["bash"], input=script, capture_output=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, b"")
    words, path = ran.stdout.split(b"\0")[:-1], os.fsencode(folder / name)
    assert len(words) == 13 + 8 and {word.split()[0] for word in words} == {b"lerobot", b"ffmpeg"}
    given = [word.partition(b" ")[2] for word in words]
    root = path if path.startswith(b"/") else b"./" + path
    assert given[4] == root and given[8] == root + b"-clean" and given[13 + 4] == root
