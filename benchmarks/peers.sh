#!/bin/sh
# Install what is compared with, and locust, which plays many clients, apart from our own environment. Safe to repeat.
#
#   benchmarks/peers.sh [FOLDER]     default: build/peers
set -eu
folder=${1:-build/peers}
mkdir -p "$folder"

if [ ! -x "$folder/litellm/bin/litellm" ]; then
    "${PYTHON:-python3.11}" -m venv "$folder/litellm"
    "$folder/litellm/bin/python" -m pip install --quiet --disable-pip-version-check 'litellm[proxy]'
fi
if [ ! -d "$folder/portkey/node_modules/@portkey-ai/gateway" ]; then
    mkdir -p "$folder/portkey"
    npm install --silent --no-fund --no-audit --prefix "$folder/portkey" @portkey-ai/gateway
fi
if [ ! -x "$folder/locust/bin/locust" ]; then
    "${PYTHON:-python3.11}" -m venv "$folder/locust"
    "$folder/locust/bin/python" -m pip install --quiet --disable-pip-version-check locust
fi
"$folder/litellm/bin/python" -m pip show litellm | sed -n 's/^Version: /litellm /p'
sed -n 's/^ *"version": "\(.*\)",$/portkey \1/p' "$folder/portkey/node_modules/@portkey-ai/gateway/package.json"
