#!/usr/bin/env bash
# The official clients of OpenAI, Anthropic and Ollama (PyPI) against a server of this checkout.
# Where there is no python3, or no network for a first install, it says so and ends well.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-target}
venv=$target/clients-venv
packages=(openai==3.57.0 anthropic==2.14.0 ollama==0.6.3)

command -v python3 >/dev/null || { echo "skipped: no python3" >&2; exit 0; }
if [ "$(cat "$venv/installed" 2>/dev/null)" != "${packages[*]}" ]; then
    python3 -m venv "$venv" || { echo "skipped: python3 makes no virtual environments here" >&2; exit 0; }
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}" ||
        { echo "skipped: the clients could not be installed" >&2; exit 0; }
    echo "${packages[*]}" >"$venv/installed"
fi
cargo build --quiet --locked -p allod
exec "$venv/bin/python" scripts/clients/suite.py "$target/debug/allod"
