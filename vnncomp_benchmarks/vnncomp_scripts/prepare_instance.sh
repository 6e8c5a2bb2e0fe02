#!/bin/bash
# prepare_instance.sh v1 CATEGORY ONNX VNNLIB: nothing to prepare; refuses what is not there.
test "$1" = v1 || { echo "prepare_instance.sh: expected version v1, found '$1'" >&2; exit 1; }
case "$3" in
    "["*) ;;  # several networks
    *) test -f "$3" || test -f "$3.gz" || { echo "prepare_instance.sh: no network '$3'" >&2; exit 1; } ;;
esac
test -f "$4" || test -f "$4.gz" || { echo "prepare_instance.sh: no property '$4'" >&2; exit 1; }
