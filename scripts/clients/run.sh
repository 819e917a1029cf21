#!/usr/bin/env bash
# The official clients of OpenAI, Anthropic and Ollama (PyPI), and of OpenAI and Ollama (npm), against a server of this
# checkout. Where there is no python3, no node 20, or no network for a first install, it says so and goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
allod=$target/debug/allod
cargo build --quiet --locked -p allod

# Installs with the command given, once for each list of packages: installed FOLDER PACKAGES COMMAND…
installed() {
    local folder=$1 packages=$2
    shift 2
    [ "$(cat "$folder/installed" 2>/dev/null)" = "$packages" ] && return
    "$@" && echo "$packages" >"$folder/installed"
}

python=(openai==3.57.0 anthropic==2.14.0 ollama==0.6.3)
venv=$target/clients-venv
in_venv() {
    python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check "${python[@]}"
}
if ! command -v python3 >/dev/null; then
    echo "skipped: the clients from PyPI (no python3)" >&2
elif ! installed "$venv" "${python[*]}" in_venv; then
    echo "skipped: the clients from PyPI could not be installed" >&2
else
    "$venv/bin/python" scripts/clients/suite.py "$allod"
fi

npm=(openai@7.57.0 ollama@0.6.4)
modules=$target/clients-npm
by_npm() {
    mkdir -p "$modules" && npm install --silent --no-audit --no-fund --prefix "$modules" "${npm[@]}"
}
if ! node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' 2>/dev/null; then
    echo "skipped: the clients from npm (no node 20)" >&2
elif ! installed "$modules" "${npm[*]}" by_npm; then
    echo "skipped: the clients from npm could not be installed" >&2
else
    node scripts/clients/suite.mjs "$allod" "$modules"
fi
