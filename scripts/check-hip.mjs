// Compiles the file of llama.cpp's CUDA backend that this project touches as HIP does, ggml-cuda.cu, for an AMD GPU. None is needed.
//
//   node scripts/check-hip.mjs
//
// Where there is no HIP it says so and succeeds. On Debian it is in hipcc, libamdhip64-dev, libhipblas-dev and librocblas-dev.

import { join } from 'node:path';
import { buildTargets, configure } from './cmake.mjs';
import { root } from './places.mjs';
import { capture, has, runMain } from './tools.mjs';

/** What llama.cpp asks for. */
const OLDEST = { major: 6, minor: 1 };

runMain(() => {
  const reason = whyNot();
  if (reason !== undefined) {
    console.log(`skipped: ${reason}`);
    return;
  }
  const build = join(root, 'build-hip');
  configure(root, build, ['-DGGML_HIP=ON', '-DGGML_CUDA=OFF', '-DGPU_TARGETS=gfx1100']);
  buildTargets(build, ['llama.cpp/ggml/src/ggml-hip/CMakeFiles/ggml-hip.dir/__/ggml-cuda/ggml-cuda.cu.o']);
  console.log('ggml-cuda.cu compiles as HIP.');
});

/** @returns {string | undefined} */
function whyNot() {
  if (!has('hipcc') || !has('hipconfig')) return 'there is no hipcc on PATH';
  if (!has('ninja')) return 'ninja, which compiles a single file, is not on PATH';
  const version = capture('hipconfig', ['--version']);
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major > OLDEST.major || (major === OLDEST.major && minor >= OLDEST.minor)) return undefined;
  return `HIP is ${version}, and llama.cpp needs ${OLDEST.major}.${OLDEST.minor} or later`;
}
