#!/bin/bash
# Every test that needs a GPU:  bench/cuda-tests.sh [STEP...]
#
#   build        the programs, into BUILD (default: build-cuda-tests), with CMAKE_FLAGS; the steps below need it
#   attention    the operator in ggml on DEVICE (default: CUDA0) against float64
#   operators    llama.cpp's test-backend-ops of the operator, DEVICE against the CPU's float64
#   kernels      the kernels alone, on long contexts, large ubatches and many sequences, against float64; and what the cache writer stores, to the bit
#   ampere       the same kernels as compiled for Ampere, with the shared memory of an A100's blocks (163 KB) and of other cards' (99 KB); needs nvcc
#   agreement    the needle model on DEVICE and on the CPU: the same greedy tokens, logits as close as stock llama.cpp's
#   times        decoding at 131,072 (TIMES: other cases of bench/cuda-attention): at most 3% over bench/results/cuda-attention-h100.json on the same card;
#                the best of 3 runs
#   exactness    whole random models on the CPU, as this build has it
#   memcheck     compute-sanitizer on a short selection: memory accesses,
#   racecheck    and shared memory; each at most SANITIZER_SECONDS (default: 1800)
#
# All of them where none is named. Needs cmake and nvcc, and a vendor/llama.cpp that is set up; no network. The exit code is 1 if any step failed.
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build-cuda-tests} device=${DEVICE:-CUDA0}

build() {
    local generator=()
    command -v ninja > /dev/null && generator=(-G Ninja)
    # none of these programs uses stock's flash attention on the GPU, which takes longest to compile
    [ -e "$build/CMakeCache.txt" ] ||
        cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON -DGGML_CUDA_FA=OFF ${CMAKE_FLAGS} || return
    cmake --build "$build" --parallel "$(nproc)" --target test-attention test-backend-ops test-exactness test-gpu-agreement cuda-attention
}
attention() { "$build/test-attention" "$device"; }
operators() {
    local out
    out=$("$build/test-backend-ops" test -o MIXED_ATTN -b "$device" 2>&1)
    local code=$?
    echo "$out" | tail -n 40
    # it is content with no case at all
    [ $code = 0 ] && ! echo "$out" | grep -Eq '0/0 tests passed|not supported' && echo "$out" | grep -q 'tests passed'
}
kernels() { "$build/cuda-attention" store && "$build/cuda-attention" check && SHARED_KB=99 "$build/cuda-attention" check; }
ampere() {
    local sm
    sm=$(nvidia-smi --id=0 --query-gpu=compute_cap --format=csv,noheader | tr -d .) || return
    BUILD="$build/ampere" ARCH="-gencode=arch=compute_80,code=sm_$sm" bash bench/cuda-attention.sh || return
    SHARED_KB=163 "$build/ampere/cuda-attention" check && SHARED_KB=99 "$build/ampere/cuda-attention" check
}
times() {
    local record=bench/results/cuda-attention-h100.json
    for run in 1 2 3; do "$build/cuda-attention" time "${TIMES:-decode f16}" || return; done | awk -v record=$record -v gpu="$(nvidia-smi --id=0 --query-gpu=name --format=csv,noheader)" '
        BEGIN {
            while ((getline line < record) > 0) {
                if (split(line, part, "\"gpu\": \"") > 1) { split(part[2], name, "\""); same = name[1] == gpu }
                if (split(line, part, "\"case\": \"") > 1) { split(part[2], name, "\""); split(line, part, "\"ms\": "); ms[name[1]] = part[2] + 0 }
            }
        }
        { print; case_name = substr($0, 1, 36); sub(/ +$/, "", case_name) }
        case_name in ms { t = substr($0, 37) + 0; if (!(case_name in best) || t < best[case_name]) best[case_name] = t }
        END {
            for (c in best) {
                over = best[c] > 1.03 * ms[c]
                printf "%-36s best %8.3f ms, on record %8.3f ms%s\n", c, best[c], ms[c], !same ? " (another card)" : over ? "  TOO SLOW" : ""
                if (over && same) failed = 1
                n++
            }
            if (!n) print "no case of the record was timed"
            exit failed || !n
        }'
}
agreement() { "$build/test-gpu-agreement" models/needle.gguf src/synthetic/language.json "$device"; }
exactness() { CUDA_VISIBLE_DEVICES='' "$build/test-exactness"; }
# API errors are no faults of a kernel: ggml tries to update a CUDA graph, and makes another where that is refused.
sanitize() { timeout "${SANITIZER_SECONDS:-1800}" compute-sanitizer --tool $1 --error-exitcode 1 "$build/test-attention" "$device" --quick; }
memcheck() { sanitize "memcheck --report-api-errors no"; }
racecheck() { sanitize racecheck; }

steps=(build attention operators kernels ampere times agreement exactness memcheck racecheck)
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
