#!/bin/bash
# Decoding and prefill beside busy processes, llama.cpp and llama-duo taking turns:  bench/busy.sh
#
# Builds bench-busy (see bench/busy.cpp) into BUILD (default: build-busy): with the pristine llama.cpp, which is made from vendor/llama.cpp by taking the
# patches back, and with ours. Then measures the shapes of SmolLM2-135M and of Llama-3.2-1B on two cores each, for SECONDS_EACH (default: 200) seconds: at the
# same time on cores 0,1 and 8,9 where there are 16, else one after the other on 0,1. Results go to OUT (default: BUILD) as busy-SHAPE-2-cores.json and .txt.
# Needs cmake and a vendor/llama.cpp that is set up; no network. Nothing else should run meanwhile: the load is printed.
cd "$(dirname "$0")/.." || exit 1
set -e
build=$(realpath -m "${BUILD:-build-busy}") out=$(realpath -m "${OUT:-${BUILD:-build-busy}}")
mkdir -p "$build" "$out"

pristine=$build/pristine
rm -rf "$pristine" && mkdir "$pristine"
tar -C vendor/llama.cpp --exclude=./.git --exclude=./models --exclude=./docs --exclude=./media -cf - . | tar -C "$pristine" -xf -
for patch in patches/*.patch; do
    # without the ceiling git finds our repository, and skips what it ignores
    (cd "$pristine" && GIT_CEILING_DIRECTORIES=$build git apply -R "$OLDPWD/$patch")
done

generator=()
command -v ninja > /dev/null && generator=(-G Ninja)
command -v ccache > /dev/null && generator+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
make_one() { # FOLDER SOURCE FLAGS...
    cmake -S "$2" -B "$build/$1" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=OFF "${@:3}" &&
        cmake --build "$build/$1" --parallel "$(nproc)" --target bench-busy
}
for step in "stock cpp/test/stock -DSTOCK_DIR=$pristine" "ours ."; do
    name=${step%% *}
    # shellcheck disable=SC2086 # a list of words
    make_one $step > "$build/$name.log" 2>&1 || { tail -n 30 "$build/$name.log"; exit 1; }
done
echo "built in $SECONDS s"

measure() { # SHAPE CPUS
    "$build/ours/bench-busy" --shape "$1" --cpus "$2" --budget "${SECONDS_EACH:-200}" --json "$out/busy-$1-2-cores.json" \
        --variant "llama.cpp=$build/stock/bench-busy" \
        --variant "llama-duo=$build/ours/bench-busy" \
        --variant "llama-duo, mixed heads=$build/ours/bench-busy,mixed" > "$out/busy-$1-2-cores.txt" 2>&1
}
uname -r && lscpu | grep -E "Model name|Thread" && uptime
if [ "$(nproc)" -ge 16 ]; then
    measure smollm2 0,1 &
    measure llama-1b 8,9
    wait $!
else
    measure smollm2 0,1
    measure llama-1b 0,1
fi
uptime
cat "$out"/busy-*-2-cores.txt
