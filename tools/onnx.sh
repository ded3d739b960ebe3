#!/bin/sh
# An environment with onnx, onnxruntime, numpy and xxhash in BUILD/onnx, for the export's test and the bench. Prints its python.
# usage: onnx.sh BUILD
set -eu
build=${1:?usage: onnx.sh BUILD}
python=$build/onnx/bin/python
if ! "$python" -c 'import onnx, onnxruntime, xxhash' 2>/dev/null; then
    rm -rf "$build/onnx"
    mkdir -p "$build"
    python3 -m venv "$build/onnx" >&2
    "$python" -m pip install --quiet --disable-pip-version-check numpy onnx onnxruntime xxhash >&2
fi
echo "$python"
