#!/bin/bash
# run_instance.sh v1 CATEGORY ONNX VNNLIB RESULT SECONDS: the verdict and the witness go to RESULT.
test "$1" = v1 || { echo "run_instance.sh: expected version v1, found '$1'" >&2; exit 1; }
root="$(cd "$(dirname "$0")/../.." && pwd)"
solver="$root/.venv/bin/secateur-solver"
test -x "$solver" || solver=secateur-solver
exec "$solver" instance "$3" "$4" "$5" "$6"
