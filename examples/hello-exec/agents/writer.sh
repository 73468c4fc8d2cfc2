#!/bin/sh
# The task is JSON, on stdin and in CAIRN_TASK. The result is what changes in this folder.
set -eu
name=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["inputs"]["name"])')
mkdir -p greetings
echo "Hello, $name!" > greetings/en.txt
echo "wrote greetings/en.txt" >&2
echo "{\"summary\": \"Greeted $name in English.\", \"data\": {\"language\": \"en\"}}"
