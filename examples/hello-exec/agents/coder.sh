#!/bin/sh
# Reads what the tasks before it reported: dependencies.<id>.data.
set -eu
languages=$(python3 -c 'import json, sys; print(*json.load(sys.stdin)["dependencies"]["translate"]["data"]["languages"])')
cat > check.sh <<END
for language in en $languages; do
  test -s "greetings/\$language.txt" || { echo "no greeting in \$language" >&2; exit 1; }
done
END
echo "{\"summary\": \"Wrote check.sh for: en $languages.\"}"
