#!/bin/bash
# install_tool.sh v1: a virtual environment beside this checkout's code, with secateur in it.
test "$1" = v1 || { echo "install_tool.sh: expected version v1, found '$1'" >&2; exit 1; }
cd "$(dirname "$0")/../.." || exit 1
python3 -m venv .venv && .venv/bin/pip install --quiet torch torchvision .
