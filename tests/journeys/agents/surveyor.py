"""A program for `--exec` that writes a module and its test, and says what it cost and what it has found. The test leaves a
coverage report of the module; a later attempt has put away what the first has left lying about."""

import json
import os
from pathlib import Path

WALL = """\
def tall(stones):
    if stones > 3:
        return "tall"
    return "low"
"""
TEST = """\
import json, sys
import wall
source = wall.__file__
ran = set()
def watch(frame, event, _):
    if frame.f_code.co_filename != source:
        return None
    if event == "line":
        ran.add(frame.f_lineno)
    return watch
sys.settrace(watch)
assert wall.tall(5) == "tall"
sys.settrace(None)
lines = {line for *_, line in wall.tall.__code__.co_lines() if line and line != wall.tall.__code__.co_firstlineno}
summary = {"covered_lines": len(ran & lines), "num_statements": len(lines)}
with open("coverage.json", "w") as report:
    json.dump({"totals": summary, "files": {"wall.py": {"summary": summary}}}, report)
"""

attempt = json.loads(os.environ["CAIRN_TASK"])["attempt"]
Path("wall.py").write_text(WALL)
Path("survey.py").write_text(TEST)
found = [{"kind": "lint", "severity": "low", "message": "no type is declared", "path": "wall.py", "line": 1}]
if attempt == 1:
    found.append({"kind": "security", "severity": "high", "message": "a key lies in the open", "path": "wall.py"})
usage = {"model": "theodolite", "input_total": 100 * attempt, "output": 10, "cost_usd": 0.25 * attempt}
print(json.dumps({"summary": "surveyed", "findings": found, "usage": usage}))
