// Builds what packages for Linux hold in a Debian 11 of its own, .cache/debian-11: what is linked against its glibc 2.31 runs on all later ones.
//
// Clang compiles for other processors as it does for this one, with the C and C++ libraries that Debian has for them; binutils for them come with those.
//
// Debian 11 brings Clang 16, the oldest compiler with all instructions that the variants of the CPU backend use. CMake is PyPI's, because Debian 11's is too old. OpenSSL is
// Debian 13's source, since Debian 11's OpenSSL gets no more fixes; it is linked statically. CUDA is PyPI's, and is fetched when its package is built.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cache, root } from './places.mjs';
import { capture, passThrough, requireTools, SetupError } from './tools.mjs';

const folder = join(cache, 'debian-11');

/**
 * What is built there: the folder that CMake builds in (the preset's), OpenSSL's name of the target and where it is installed, and what compiles for it.
 * @type {Readonly<Record<string, { build: string, openssl: { target: string, prefix: string }, triplet?: string }>>}
 */
const platforms = {
  'linux-x64': { build: 'build-package', openssl: { target: 'linux-x86_64', prefix: '/opt/openssl' } },
  'linux-arm64': {
    build: 'build-package-arm64',
    openssl: { target: 'linux-aarch64', prefix: '/opt/openssl-arm64' },
    triplet: 'aarch64-linux-gnu',
  },
};

/** The platforms whose packages are built there. */
export const debianPlatforms = Object.keys(platforms);

/** @param {string} name */
function platform(name) {
  const found = platforms[name];
  if (!found) throw new SetupError(`There is no build for ${name}: expected ${debianPlatforms.join(' or ')}.`);
  return found;
}

/**
 * The folder of a platform's build.
 * @param {string} name as Node says it: linux-x64
 */
export function portableBuild(name) {
  return join(root, platform(name).build);
}

/** The folder of the build with CUDA, which linux-x64 has. */
export const portableCudaBuild = join(root, 'build-package-cuda');

/**
 * What is read from files of a platform: binutils understand their own processors alone.
 * @param {string} name
 */
export function binutilsPrefix(name) {
  const { triplet } = platform(name);
  return triplet === undefined || name === `${process.platform}-${process.arch}` ? '' : `${triplet}-`;
}

/** The C library of another platform there, where an emulator (`qemu-aarch64 -L`) finds it.
 * @param {string} name
 */
export function systemLibrariesOf(name) {
  return join(folder, 'usr', platform(name).triplet ?? '');
}

const packages = ['ca-certificates', 'clang-16', 'g++', 'g++-aarch64-linux-gnu', 'make', 'ninja-build', 'ccache', 'perl', 'dpkg-dev'];
const cmake = '3.31.6';

/** CUDA 13.0: the compiler, and the libraries that the package links. */
export const cudaVersion = '13.0';
const cudaRuntime = '13.0.96';
const cudaWheels = [
  'nvidia-cuda-nvcc==13.0.88',
  'nvidia-cuda-crt==13.0.88',
  'nvidia-nvvm==13.0.88',
  'nvidia-cuda-cccl==13.0.85',
  `nvidia-cuda-runtime==${cudaRuntime}`,
  'nvidia-cublas==13.1.0.3',
];
const cudaFolder = join(folder, 'opt/cuda');
const cudaToolkit = '/opt/cuda/nvidia/cu13';
const cudaLicence = `nvidia_cuda_runtime-${cudaRuntime}.dist-info/licenses/License.txt`;

/** Nothing that a client of HTTPS does not need. */
const opensslOptions =
  'no-shared no-tests no-apps no-docs no-legacy no-module no-engine no-dso no-comp no-afalgeng no-ssl3 no-tls1 no-tls1_1 no-dtls no-quic --libdir=lib -fvisibility=hidden';

/**
 * Makes the root unless it is there. Its last step is its stamp.
 * @param {(message: string) => void} say
 */
function makeRoot(say) {
  const stamp = join(folder, 'opt/ready');
  const wanted = JSON.stringify({ packages, cmake, opensslOptions, platforms });
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  rmSync(folder, { recursive: true, force: true });
  say(`making a Debian 11 in ${folder}`);
  const mirror = process.env['DEBIAN_MIRROR'];
  passThrough('debootstrap', ['--variant=minbase', '--include=ca-certificates', 'bullseye', folder, ...(mirror ? [mirror] : [])]);
  const [, used = ''] = readFileSync(join(folder, 'etc/apt/sources.list'), 'utf8').split(' ');
  writeFileSync(
    join(folder, 'etc/apt/sources.list'),
    [`deb ${used} bullseye main`, `deb ${used}-security bullseye-security main`, `deb-src ${used}-security trixie-security main`, ''].join(
      '\n',
    ),
  );
  // It signs Debian 13's source, which Debian 11 does not know yet.
  const keys = '/usr/share/keyrings/debian-archive-keyring.gpg';
  if (existsSync(keys)) writeFileSync(join(folder, 'etc/apt/trusted.gpg.d/debian-archive-keyring.gpg'), readFileSync(keys));
  inRoot(`apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ${packages.join(' ')}`);

  say(`CMake ${cmake}`);
  const wheels = join(folder, 'opt/cmake');
  mkdirSync(wheels, { recursive: true });
  passThrough('python3', [
    '-m',
    'pip',
    'download',
    '--no-deps',
    '--only-binary',
    ':all:',
    '--platform',
    'manylinux2014_x86_64',
    '-d',
    wheels,
    `cmake==${cmake}`,
  ]);
  const [wheel = ''] = readdirSync(wheels).filter((name) => name.endsWith('.whl'));
  passThrough('python3', ['-m', 'zipfile', '-e', join(wheels, wheel), wheels]);
  inRoot('chmod +x /opt/cmake/cmake/data/bin/* && ln -sf /opt/cmake/cmake/data/bin/cmake /usr/local/bin/cmake');

  say('OpenSSL');
  inRoot(
    [
      'mkdir -p /opt/src && cd /opt/src',
      'apt-get source --download-only --tar-only openssl',
      'tar xf openssl_*.orig.tar.gz && cd openssl-3*/',
      ...Object.values(platforms).flatMap(({ openssl: { target, prefix }, triplet }) => [
        // Distributions keep their certificates elsewhere, and have a link here.
        `./Configure ${target} ${triplet ? `--cross-compile-prefix=${triplet}- ` : ''}--prefix=${prefix} --openssldir=/etc/ssl ${opensslOptions}`,
        `make -j"$(nproc)" build_libs && make install_dev && cp LICENSE.txt VERSION.dat ${prefix}/ && make distclean`,
      ]),
      'rm -rf /opt/src',
    ].join(' && '),
  );
  writeFileSync(stamp, wanted);
}

/**
 * Puts CUDA into the root unless it is there. Its wheels are made for programs that run, and lack what only a linker looks for: the names without a version, and a
 * library in the driver's place.
 * @param {(message: string) => void} say
 */
function addCuda(say) {
  const stamp = join(cudaFolder, 'ready');
  const wanted = cudaWheels.join(' ');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  rmSync(cudaFolder, { recursive: true, force: true });
  say(`CUDA: ${wanted}`);
  const platforms = ['manylinux2014_x86_64', 'manylinux_2_27_x86_64'].flatMap((tag) => ['--platform', tag]);
  passThrough('python3', [
    ...['-m', 'pip', 'install', '--quiet', '--no-deps', '--only-binary', ':all:'],
    ...[...platforms, '--target', cudaFolder, ...cudaWheels],
  ]);
  inRoot(
    [
      `cd ${cudaToolkit}`,
      'ln -s lib lib64',
      'for name in cudart cublas cublasLt; do ln -s lib$name.so.13 lib/lib$name.so; done',
      'mkdir lib/stubs',
      // what cuda.h declares, under the names that its macros give
      "g++ -E include/cuda.h | sed -n 's/^ *CUresult *\\(cu[A-Za-z0-9_]*\\)(.*/void \\1(void) {}/p' | sort -u > lib/stubs/cuda.c",
      'gcc -w -shared -Wl,-soname,libcuda.so.1 -o lib/stubs/libcuda.so lib/stubs/cuda.c',
    ].join(' && '),
  );
  writeFileSync(stamp, wanted);
}

/**
 * Runs a command in the root, with this repository where it is outside. The mounts are the command's own, and end with it.
 * @param {string} command
 */
function inRoot(command) {
  const inner = [
    'set -e',
    `mkdir -p "${folder}${root}"`,
    `mount -t proc proc "${folder}/proc"`,
    `mount --bind "${root}" "${folder}${root}"`,
    `cp /etc/resolv.conf "${folder}/etc/resolv.conf"`,
    `exec chroot "${folder}" /bin/sh -ec ${quote(command)}`,
  ].join('\n');
  passThrough('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', inner]);
}

/** @param {string} text */
function quote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * Builds targets there.
 * @param {string} name the platform
 * @param {string[]} targets
 * @param {(message: string) => void} say
 */
export function buildInDebian(name, targets, say) {
  buildPreset(`package-${name}`, portableBuild(name), targets, say);
}

/**
 * Builds the library of linux-x64 with CUDA there, and what looks for a GPU.
 * @param {(message: string) => void} say
 */
export function buildCudaInDebian(say) {
  buildPreset('package-linux-x64-cuda', portableCudaBuild, ['llama-duo', 'cuda-probe'], say, addCuda);
}

/**
 * @param {string} preset
 * @param {string} build the preset's folder
 * @param {string[]} targets
 * @param {(message: string) => void} say
 * @param {(say: (message: string) => void) => void} [addTools] what the root needs beside what all builds need
 */
function buildPreset(preset, build, targets, say, addTools) {
  if (process.platform !== 'linux' || process.arch !== 'x64' || process.getuid?.() !== 0) {
    throw new SetupError(
      'Packages for Linux are built in a Debian 11 of their own, for which this must be root on linux-x64 (sudo). --local packs the local build instead.',
    );
  }
  requireTools(['debootstrap', 'chroot', 'unshare', 'python3']);
  makeRoot(say);
  addTools?.(say);
  say(`building ${targets.join(' and ')} in ${build}`);
  inRoot(
    [
      `cd "${root}"`,
      `export CCACHE_BASEDIR="${root}" CCACHE_NOHASHDIR=1 CCACHE_DIR="${cache}/ccache-debian-11"`,
      `cmake --preset ${preset}`,
      `cmake --build ${build} --parallel "$(nproc)" --target ${targets.join(' ')}`,
    ].join(' && '),
  );
}

/**
 * What that build is linked with.
 * @param {string} name the platform
 * @param {{ cuda?: boolean }} [options]
 */
export function linkedInDebian(name, { cuda = false } = {}) {
  const openssl = join(folder, platform(name).openssl.prefix);
  const version = /MAJOR=(\d+)\nMINOR=(\d+)\nPATCH=(\d+)/.exec(readFileSync(join(openssl, 'VERSION.dat'), 'utf8'));
  if (!version) throw new SetupError(`${openssl}/VERSION.dat tells no version: delete ${folder}, and run this again.`);
  return {
    openssl: { version: version.slice(1).join('.'), text: readFileSync(join(openssl, 'LICENSE.txt'), 'utf8') },
    gcc: readFileSync(join(folder, 'usr/share/doc/gcc-10-base/copyright'), 'utf8'),
    ...(cuda && { cuda: readFileSync(join(cudaFolder, cudaLicence), 'utf8') }),
  };
}

/** Whether the root is there, for tests that run something in it. */
export function hasDebian() {
  return existsSync(join(folder, 'opt/ready')) && capture('id', ['-u']) === '0';
}

/**
 * Runs a command in the root and returns what it printed.
 * @param {string} command
 */
export function captureInDebian(command) {
  const inner = `mkdir -p "${folder}${root}" && mount -t proc proc "${folder}/proc" && mount --bind "${root}" "${folder}${root}" && exec chroot "${folder}" /bin/sh -ec ${quote(command)}`;
  return capture('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', inner]);
}
