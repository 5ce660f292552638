#!/bin/bash
# Every test that needs a GPU:  bench/cuda-tests.sh [STEP...]
#
#   build        the programs, into BUILD (default: build-cuda-tests), with CMAKE_FLAGS; the steps below need it
#   attention    the operator in ggml on DEVICE (default: CUDA0) against float64
#   kernels      the kernels alone, on long contexts, large ubatches and many sequences, against float64; and what the cache writer stores, to the bit
#   ampere       the same kernels as compiled for Ampere, with the shared memory of an A100's blocks (163 KB) and of other cards' (99 KB); needs nvcc
#   agreement    the needle model on DEVICE and on the CPU: the same greedy tokens, logits as close as stock llama.cpp's
#   exactness    whole random models on the CPU, as this build has it
#   memcheck     compute-sanitizer on a short selection: memory accesses,
#   racecheck    and shared memory; each at most SANITIZER_SECONDS (default: 1800)
#
# All of them where none is named. Needs cmake and nvcc, and a vendor/llama.cpp that is set up; no network. The exit code is 1 if any step failed.
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build-cuda-tests} device=${DEVICE:-CUDA0}
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}

build() {
    local generator=()
    command -v ninja > /dev/null && generator=(-G Ninja)
    # none of these programs uses stock's flash attention on the GPU, which takes longest to compile
    [ -e "$build/CMakeCache.txt" ] ||
        cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON -DGGML_CUDA_FA=OFF ${CMAKE_FLAGS} || return
    cmake --build "$build" --parallel "$(nproc)" --target test-attention test-exactness test-gpu-agreement cuda-attention
}
attention() { "$build/test-attention" "$device"; }
kernels() { "$build/cuda-attention" store && "$build/cuda-attention" check && SHARED_KB=99 "$build/cuda-attention" check; }
ampere() {
    local sm
    sm=$(nvidia-smi --id=0 --query-gpu=compute_cap --format=csv,noheader | tr -d .) || return
    BUILD="$build/ampere" ARCH="-gencode=arch=compute_80,code=sm_$sm" bash bench/cuda-attention.sh || return
    SHARED_KB=163 "$build/ampere/cuda-attention" check && SHARED_KB=99 "$build/ampere/cuda-attention" check
}
agreement() { "$build/test-gpu-agreement" models/needle.gguf src/synthetic/language.json "$device"; }
exactness() { CUDA_VISIBLE_DEVICES='' "$build/test-exactness"; }
sanitize() { timeout "${SANITIZER_SECONDS:-1800}" compute-sanitizer --tool "$1" --error-exitcode 1 "$build/test-attention" "$device" --quick; }
memcheck() { sanitize memcheck; }
racecheck() { sanitize racecheck; }

steps=(build attention kernels ampere agreement exactness memcheck racecheck)
for step in "$@"; do
    case " ${steps[*]} " in
        *" $step "*) ;;
        *) echo "bench/cuda-tests.sh: there is no step $step; there are: ${steps[*]}" >&2; exit 2 ;;
    esac
done
[ $# -gt 0 ] || set -- "${steps[@]}"

failed=0
summary=()
for step in "$@"; do
    echo "== $step"
    SECONDS=0
    if "$step"; then
        summary+=("ok      $step, $SECONDS s")
    else
        summary+=("FAILED  $step, $SECONDS s")
        failed=1
        [ "$step" != build ] || break
    fi
done
printf '%s\n' "== summary" "${summary[@]}"
exit $failed
