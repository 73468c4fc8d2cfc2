#!/bin/sh
# Fails on its first attempt, as if the dictionary were out; the second one finds it.
set -eu
attempt=$(python3 -c 'import json, os; print(json.loads(os.environ["CAIRN_TASK"])["attempt"])')
if [ "$attempt" -lt 2 ]; then echo "the dictionary is lent out, try again shortly" >&2; exit 75; fi
sed 's/^Hello/Hallo/' greetings/en.txt > greetings/nl.txt
sed 's/^Hello/Bonjour/; s/!$/ !/' greetings/en.txt > greetings/fr.txt
echo "{\"summary\": \"Translated into Dutch and French, at attempt $attempt.\", \"data\": {\"languages\": [\"nl\", \"fr\"]}}"
