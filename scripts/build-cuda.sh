#!/bin/bash
# Builds what the CUDA package for linux-x64 holds, into build-package-cuda, and writes down what it is for scripts/pack.mjs --cuda:
#
#   scripts/build-cuda.sh [ARCHITECTURES]        "80 86 89 90 120" if none are named; code for 90 is Hopper's own (sm_90a)
#
# It needs CUDA 12.8 or later, GCC 11 or later and CMake 3.21 or later, on a system whose glibc is 2.31 or older. ninja keeps what it has compiled, so that what was
# interrupted goes on; ONE=1 compiles one architecture after the other, each in a folder of its own, to see that all of them compile before the long build of all.
#
# cuBLAS is the system's (libcublas.so.12, in CUDA's runtime packages): with it the package would have 400 MB more. CUDA's runtime is linked statically. Flash attention
# of stock llama.cpp is compiled for the pairs of cache types that are used (GGML_CUDA_FA_ALL_QUANTS stays off), and the fat binaries are compressed for size.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build-package-cuda
read -r -a architectures <<< "${1:-80 86 89 90 120}"

for tool in nvcc cmake ninja; do
    command -v $tool > /dev/null || { echo "error: $tool was not found" >&2; exit 1; }
done
toolkit=$(nvcc --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
read -r major minor <<< "$toolkit"
[ $((major * 100 + minor)) -ge 1208 ] || { echo "error: CUDA $major.$minor is too old: 12.8 knows sm_120, and compresses fat binaries" >&2; exit 1; }

names() {
    local name list=()
    for name in "$@"; do
        case $name in
            90) list+=(90a-real) ;;
            120) list+=(120a-real) ;;
            *) list+=("$name-real") ;;
        esac
    done
    # what the driver compiles for all other GPUs, from the oldest on
    list+=("$1-virtual")
    (IFS=';'; echo "${list[*]}")
}

configure() {
    cmake --preset package-linux-x64-cuda -B "$1" -DCMAKE_CUDA_ARCHITECTURES="$2"
}

if [ "${ONE:-}" = 1 ]; then
    for name in "${architectures[@]}"; do
        configure "$build/sm_$name" "$(names "$name")"
        cmake --build "$build/sm_$name" --parallel "$(nproc)" --target ggml-cuda
    done
    exit
fi
configure "$build" "$(names "${architectures[@]}")"
cmake --build "$build" --parallel "$(nproc)" --target llama-duo cuda-probe

licence=$(find "$(dirname "$(dirname "$(command -v nvcc)")")" -maxdepth 2 -iname 'EULA.txt' 2> /dev/null | head -n 1)
[ -n "$licence" ] || { echo "error: CUDA's EULA.txt was not found beside nvcc: the package must have it" >&2; exit 1; }
node - "$licence" "$build/cuda-package.json" "$major" "$minor" "${architectures[@]}" << 'END'
const { readFileSync, writeFileSync } = require('node:fs');
const [licence, file, major, minor, ...architectures] = process.argv.slice(2);
writeFileSync(file, JSON.stringify({
  oldestDriver: Number(major) * 1000, // drivers run what any minor version of their CUDA compiled
  toolkit: Number(major) * 1000 + Number(minor) * 10,
  architectures: architectures.map(Number),
  ptx: Math.min(...architectures.map(Number)),
  licence: readFileSync(licence, 'utf8'),
}));
END
ls -l "$build/libllama-duo.so"
