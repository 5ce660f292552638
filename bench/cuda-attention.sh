#!/bin/bash
# Builds bench/cuda-attention into BUILD (default: build-cuda-attention), one compiler process a file. Flags: $1...
set -e
cd "$(dirname "$0")/.."
build=${BUILD:-build-cuda-attention}
mkdir -p "$build"
arch=${ARCH:--gencode=arch=compute_90a,code=sm_90a}
pids=()
for source in bench/cuda-attention.cu cpp/attention/cuda/mixed-attention-cuda.cu cpp/attention/cuda/instances/*.cu; do
    ${NVCC:-nvcc} -std=c++17 -O3 -use_fast_math -lineinfo $arch "$@" -c "$source" -o "$build/$(basename "$source" .cu).o" &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
${NVCC:-nvcc} $arch "$build"/*.o -o "$build/cuda-attention"
