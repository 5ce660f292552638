#!/bin/bash
# bench-model on the shapes that people run, with sliding windows, learned sinks and recurrent layers:  [OUT=bench/results] [BUILD=build-cuda] bench/models.sh [SHAPE...]
#
# Decoding at 32,768 and 131,072 and prefill of 4,096 tokens at 65,536, with f16, q8_0 and q4_0, with no head and with half of the global heads streaming,
# beside llama.cpp's own path: a minute a shape on an H100. OUT gets gpu-SHAPE.json of each. Needs cmake and nvcc, and a vendor/llama.cpp that is set up.
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build-cuda} out=${OUT:-bench/results}
if [ ! -e "$build/bench-model" ]; then
    [ -e "$build/CMakeCache.txt" ] || cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON ${CMAKE_FLAGS} || exit
    cmake --build "$build" --parallel "$(nproc)" --target bench-model || exit
fi
[ $# -gt 0 ] || set -- gemma-3-27b gemma-4-31b gpt-oss-20b qwen3.5-9b
failed=0
for shape in "$@"; do
    "$build/bench-model" --shape "$shape" --sparsity 0,0.5 --max-seconds 75 --out "$out/gpu-$shape.json" \
        --cases decode@0,decode@32768,decode@131072,prefill4096@0,prefill4096@65536 || failed=1
done
exit $failed
