// How llama.cpp's source tree is fetched and patched, on a made-up tree of three files: no network, no npm.

import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { checkPatches, exportPatches } from '../../scripts/patches.mjs';
import { readLock, vendor } from '../../scripts/vendor.mjs';

type Lock = ReturnType<typeof readLock>;

const pristine = { 'main.c': 'int main() {\n    return 0;\n}\n', 'cache.c': 'one\ntwo\nthree\nfour\nfive\n', 'docs/readme': 'read me\n' };
const first = { file: '0001-cache.patch', path: 'cache.c', from: 'three', to: 'THREE' };
const second = { file: '0002-main.patch', path: 'main.c', from: 'return 0', to: 'return 1' };

const realGit = execFileSync('which', ['git'], { encoding: 'utf8' }).trim();

let folder: string;
let upstream: string;
let places: { lockFile: string; patches: string; target: string; cache: string };
let messages: string[];

const run = (changes: Partial<Lock> = {}) => {
  if (Object.keys(changes).length > 0) writeLock({ ...readLock(places.lockFile), ...changes });
  vendor(places, (message) => messages.push(message));
};
const git = (cwd: string, ...args: string[]) =>
  execFileSync(realGit, ['-c', 'user.name=T', '-c', 'user.email=t@t', '-c', 'init.defaultBranch=main', ...args], {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  }).trim();
const sha256 = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex');
const writeLock = (lock: Lock) => writeFileSync(places.lockFile, JSON.stringify(lock));
const read = (path: string) => readFileSync(join(places.target, path), 'utf8');
const tarball = () => join(folder, 'tarball.tgz');

/** A program that shadows the real one on PATH. */
function fakeProgram(name: string, script: string) {
  const file = join(folder, 'bin', name);
  writeFileSync(file, `#!/bin/sh\n${script}\n`);
  chmodSync(file, 0o755);
}

/** Writes the patches and returns what the lock says of them. */
function writePatches(...edits: (typeof first)[]): Pick<Lock, 'patches' | 'patchedTree'> {
  rmSync(places.patches, { recursive: true });
  mkdirSync(places.patches);
  const patches = edits.map(({ file, path, from, to }) => {
    writeFileSync(join(upstream, path), readFileSync(join(upstream, path), 'utf8').replace(from, to));
    writeFileSync(join(places.patches, file), `${git(upstream, 'diff', '-U1', path)}\n`);
    git(upstream, 'add', path);
    return { file, paths: [path], sha256: sha256(join(places.patches, file)) };
  });
  const patchedTree = git(upstream, 'write-tree');
  git(upstream, 'reset', '--hard');
  return { patches, patchedTree };
}

beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'llama-duo-vendor-')));
  messages = [];
  upstream = join(folder, 'upstream');
  places = {
    lockFile: join(folder, 'lock.json'),
    patches: join(folder, 'patches'),
    target: join(folder, 'vendor/tree'),
    cache: join(folder, 'cache'),
  };
  for (const name of ['upstream/docs', 'patches', 'bin', 'package/llama']) mkdirSync(join(folder, name), { recursive: true });
  for (const [path, text] of Object.entries(pristine)) writeFileSync(join(upstream, path), text);
  git(upstream, 'init');
  git(upstream, 'add', '.');
  git(upstream, 'commit', '-m', 'Release');
  git(upstream, 'tag', 'v1');

  const bundle = join(folder, 'package/llama/gitRelease.bundle');
  git(upstream, 'bundle', 'create', bundle, 'HEAD');
  execFileSync('tar', ['-czf', tarball(), '-C', folder, 'package']);
  fakeProgram('npm', `cp '${tarball()}' made-up-1.0.0.tgz && echo made-up-1.0.0.tgz`);
  vi.stubEnv('PATH', [join(folder, 'bin'), process.env['PATH']].join(delimiter));

  const tree = git(upstream, 'rev-parse', 'HEAD^{tree}');
  writeLock({
    tag: 'v1',
    tree,
    sources: [
      {
        kind: 'npm',
        package: 'made-up',
        version: '1.0.0',
        integrity: `sha512-${createHash('sha512').update(readFileSync(tarball())).digest('base64')}`,
        bundle: 'llama/gitRelease.bundle',
        sha256: sha256(bundle),
      },
      { kind: 'git', url: pathToFileURL(upstream).href, tag: 'v1' },
    ],
    patches: [],
    patchedTree: tree,
  });
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

/** The call must fail with this message, and leave neither a tree nor work in progress. */
function expectRefusal(message: RegExp, changes: Partial<Lock> = {}) {
  expect(() => run(changes)).toThrow(message);
  expect(existsSync(places.target)).toBe(false);
  expect(existsSync(places.cache) ? readdirSync(places.cache) : []).toEqual([]);
}

describe('fetching', () => {
  it('lays out the pristine tree', () => {
    run();
    for (const [path, text] of Object.entries(pristine)) expect(read(path)).toBe(text);
    expect(readdirSync(places.cache)).toEqual([]);
    expect(messages).toEqual(['fetching llama.cpp v1']);
  });

  it('does nothing when the tree is in place', () => {
    run(writePatches(first));
    fakeProgram('npm', 'exit 1');
    const before = statSync(join(places.target, 'cache.c'), { bigint: true }).mtimeNs;
    messages = [];
    run();
    expect(messages).toEqual([]);
    expect(statSync(join(places.target, 'cache.c'), { bigint: true }).mtimeNs).toBe(before);
  });

  it('is not led astray by the variables of an outer git', () => {
    const lock = writePatches(first);
    vi.stubEnv('GIT_DIR', join(upstream, '.git'));
    vi.stubEnv('GIT_INDEX_FILE', join(folder, 'elsewhere'));
    run(lock);
    vi.unstubAllEnvs();
    expect(read('cache.c')).toContain('THREE');
    expect(existsSync(join(folder, 'elsewhere'))).toBe(false);
    expect(git(upstream, 'status', '--porcelain')).toBe('');
  });

  it('takes the second source when the download fails', () => {
    fakeProgram('npm', 'echo no route to host >&2; exit 1');
    run();
    expect(read('main.c')).toBe(pristine['main.c']);
    expect(messages.join()).toContain('no route to host');
  });

  it('names every failure when no source can be reached', () => {
    fakeProgram('npm', 'echo no route to host >&2; exit 1');
    git(upstream, 'tag', '-d', 'v1');
    expectRefusal(/v1 could not be downloaded:[^]*no route to host[^]*Remote branch v1 not found[^]*run this again/);
  });

  it('refuses a tarball with another hash', () => {
    appendFileSync(tarball(), 'x');
    expectRefusal(/npm package made-up@1\.0\.0 has hash .*Nothing was installed.*npm cache clean/);
  });

  it('refuses a bundle with another hash', () => {
    const [npm, ...others] = readLock(places.lockFile).sources;
    if (npm?.kind !== 'npm') throw new Error('not the npm source');
    expectRefusal(/gitRelease\.bundle in npm package .* has hash .* but the lock file says 0000/, {
      sources: [{ ...npm, sha256: '0000' }, ...others],
    });
  });

  it.each(['npm', 'git'] as const)('refuses another tree from the %s source', (kind) => {
    const sources = readLock(places.lockFile).sources.filter((source) => source.kind === kind);
    expectRefusal(/has tree id [0-9a-f]{40}, but the lock file says 1234/, { sources, tree: '1234' });
  });

  it('refuses a clone with files missing', () => {
    fakeProgram('git', `${realGit} "$@" || exit; case "$1" in clone) for last; do :; done; rm "$last/main.c";; esac`);
    expectRefusal(/is incomplete[^]*main\.c/);
  });

  it.each(['npm', 'git', 'tar'])('names the missing tool: %s', (missing) => {
    const only = join(folder, 'only');
    mkdirSync(only);
    for (const name of ['npm', 'git', 'tar', 'gzip', 'cp'].filter((tool) => tool !== missing)) {
      const real = name === 'npm' ? join(folder, 'bin/npm') : execFileSync('which', [name], { encoding: 'utf8' }).trim();
      execFileSync('ln', ['-s', real, join(only, name)]);
    }
    vi.stubEnv('PATH', only);
    expectRefusal(new RegExp(`^${missing} was not found\\. \\w+`));
  });

  it('leaves no half-made tree when it is killed, and recovers', () => {
    fakeProgram('git', `${realGit} "$@"; case "$1" in clone) for last; do :; done; rm "$last/main.c"; kill -9 $PPID;; esac`);
    expect(runInProcess().signal).toBe('SIGKILL');
    expect(existsSync(places.target)).toBe(false);
    expect(readdirSync(places.cache)).toHaveLength(1);

    rmSync(join(folder, 'bin/git'));
    run();
    expect(read('main.c')).toBe(pristine['main.c']);
    expect(readdirSync(places.cache)).toEqual([]);
  });

  it('fetches anew when the release changes', () => {
    run();
    writeFileSync(join(upstream, 'main.c'), 'int main() {}\n');
    git(upstream, 'commit', '-am', 'Next');
    git(upstream, 'tag', 'v2');
    const tree = git(upstream, 'rev-parse', 'HEAD^{tree}');
    run({ tag: 'v2', tree, patchedTree: tree, sources: [{ kind: 'git', url: pathToFileURL(upstream).href, tag: 'v2' }] });
    expect(read('main.c')).toBe('int main() {}\n');
    expect(readdirSync(places.cache)).toEqual([]);
  });

  it('refuses a folder that it did not make', () => {
    mkdirSync(places.target, { recursive: true });
    writeFileSync(join(places.target, 'mine'), '');
    expect(() => run()).toThrow(/is not a git repository of its own. Move .* away/);
    expect(readdirSync(places.target)).toEqual(['mine']);
  });
});

describe('patching', () => {
  it('applies the patches in order', () => {
    run(writePatches(first, second));
    expect(read('cache.c')).toBe('one\ntwo\nTHREE\nfour\nfive\n');
    expect(read('main.c')).toContain('return 1');
  });

  it('refuses a patch that does not apply', () => {
    const lock = writePatches(first);
    const file = join(places.patches, first.file);
    writeFileSync(file, readFileSync(file, 'utf8').replace('-three', '-threee'));
    const patches = [{ file: first.file, paths: [first.path], sha256: sha256(file) }];
    expectRefusal(/0001-cache\.patch does not apply to llama\.cpp[^]*cache\.c/, { ...lock, patches });
  });

  it('refuses a patch with another hash', () => {
    const lock = writePatches(first);
    appendFileSync(join(places.patches, first.file), '\n');
    expectRefusal(/0001-cache\.patch has sha256 .*patches\.mjs export/, lock);
  });

  it('refuses a patch that is missing, and one that nobody named', () => {
    const lock = writePatches(first);
    rmSync(join(places.patches, first.file));
    expectRefusal(/0001-cache\.patch is missing\. Restore it/, lock);
    writePatches(first, second);
    expectRefusal(/does not name 0002-main\.patch/);
  });

  it('refuses another patched tree', () => {
    expectRefusal(/with patches\/ applied has tree id [0-9a-f]{40}, but the lock file says 1234/, {
      ...writePatches(first),
      patchedTree: '1234',
    });
  });

  it('moves only the files that change from one patched tree to the next', () => {
    run(writePatches(first));
    const stat = (path: string) => {
      const { ino, mtimeNs } = statSync(join(places.target, path), { bigint: true });
      return { ino, mtimeNs };
    };
    const before = { cache: stat('cache.c'), main: stat('main.c'), docs: stat('docs/readme') };
    fakeProgram('npm', 'exit 1');
    run(writePatches(first, second));
    expect(read('main.c')).toContain('return 1');
    expect(stat('cache.c')).toEqual(before.cache);
    expect(stat('docs/readme')).toEqual(before.docs);
    expect(stat('main.c')).not.toEqual(before.main);

    run(writePatches());
    for (const [path, text] of Object.entries(pristine)) expect(read(path)).toBe(text);
  });

  it('finishes a move that was killed', () => {
    run(writePatches(first));
    writeLock({ ...readLock(places.lockFile), ...writePatches(first, second) });
    const halfway = `cd ${places.target} && touch .git/index.lock && echo half > main.c && kill -9 $PPID`;
    fakeProgram('git', `case "$*" in *'read-tree -m'*) ${halfway};; *) exec ${realGit} "$@";; esac`);
    expect(runInProcess().signal).toBe('SIGKILL');
    expect(read('main.c')).toBe('half\n');

    rmSync(join(folder, 'bin/git'));
    run();
    expect(read('main.c')).toContain('return 1');
    expect(read('cache.c')).toContain('THREE');
    expect(git(places.target, 'write-tree')).toBe(readLock(places.lockFile).patchedTree);
  });

  it.each([
    ['an edited file', () => appendFileSync(join(places.target, 'main.c'), '// mine\n'), 'main.c'],
    ['a new file', () => writeFileSync(join(places.target, 'mine.c'), ''), 'mine.c'],
    ['a deleted file', () => rmSync(join(places.target, 'docs/readme')), 'docs/readme'],
    [
      'a staged edit',
      () => {
        appendFileSync(join(places.target, 'main.c'), '// mine\n');
        git(places.target, 'add', '.');
      },
      'main.c',
    ],
  ])('refuses to overwrite local changes: %s', (_, change, path) => {
    run(writePatches(first));
    change();
    expect(() => run(writePatches(first, second))).toThrow(new RegExp(`has local changes:\n${path}\nKeep them with: .*patches.mjs export`));
    expect(read('main.c')).not.toContain('return 1');
  });
});

describe('exporting patches', () => {
  it('writes what changed, by topic, so that it applies again', () => {
    run(writePatches(first));
    writeFileSync(join(places.patches, first.file), `Why this is so.\n\n${readFileSync(join(places.patches, first.file), 'utf8')}`);
    writeFileSync(join(places.target, 'cache.c'), 'one\ntwo\ndrei\nfour\nfive\n');
    writeFileSync(join(places.target, 'main.c'), pristine['main.c'].replace('0', '2'));
    writeFileSync(join(places.target, 'new.c'), 'int fresh;\n');
    const lock = readLock(places.lockFile);
    const topic = { file: '0002-main.patch', paths: ['main.c', 'new.c'], sha256: '' };
    writeLock({ ...lock, patches: [...lock.patches, topic] });

    exportPatches(places);
    expect(readFileSync(join(places.patches, first.file), 'utf8')).toMatch(/^Why this is so\.\n\ndiff --git[^]*-three\n\+drei\n/);
    expect(() => checkPatches(places)).not.toThrow();
    messages = [];
    run();
    expect(messages).toEqual([]);

    rmSync(places.target, { recursive: true });
    run();
    expect(read('cache.c')).toContain('drei');
    expect(read('main.c')).toContain('return 2');
    expect(read('new.c')).toBe('int fresh;\n');
  });

  it('refuses a changed file that no topic claims', () => {
    run(writePatches(first));
    const before = readFileSync(places.lockFile, 'utf8');
    appendFileSync(join(places.target, 'main.c'), '// mine\n');
    expect(() => exportPatches(places)).toThrow(/main\.c/);
    expect(readFileSync(places.lockFile, 'utf8')).toBe(before);
  });

  it('finds patches that are not those of the tree', () => {
    run(writePatches(first));
    appendFileSync(join(places.target, 'cache.c'), 'six\n');
    expect(() => checkPatches(places)).toThrow(/local changes:\ncache\.c/);
  });
});

/** Vendors in a process of its own, which a fake program may kill. */
function runInProcess() {
  const module = JSON.stringify(fileURLToPath(new URL('../../scripts/vendor.mjs', import.meta.url)));
  const code = `import { vendor } from ${module}; vendor(${JSON.stringify(places)});`;
  return spawnSync(process.execPath, ['--input-type=module', '--eval', code], { encoding: 'utf8' });
}
