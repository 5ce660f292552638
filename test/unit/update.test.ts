// How llama.cpp is moved to another release, on made-up releases of three files: no network, no npm.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { checkPatches, exportPatches } from '../../scripts/patches.mjs';
import { describe as inWords, update } from '../../scripts/update.mjs';
import { readLock, vendor } from '../../scripts/vendor.mjs';

const lines = (...all: string[]) => `${all.join('\n')}\n`;
const function_ = (name: string) => [`int ${name}() {`, '    begin();', '    return 0;', '}', ''];

const firstRelease = {
  'many.c': lines(...function_('one'), ...function_('two'), ...function_('three')),
  'cache.c': lines('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'),
  'other.c': lines('int x;', 'int y;'),
};
/** What the patches make of them. */
const ours = {
  'many.c': lines(...function_('one'), 'int two() {', '    begin();', '    ours();', '    return 0;', '}', '', ...function_('three')),
  'cache.c': lines('a', 'B', 'c', 'd', 'e', 'f', 'G', 'h'),
};

let folder: string;
let upstream: string;
let places: { lockFile: string; patches: string; target: string; cache: string };

const git = (...args: string[]) =>
  execFileSync('git', ['-c', 'user.name=T', '-c', 'user.email=t@t', '-c', 'init.defaultBranch=main', ...args], {
    cwd: upstream,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  }).trim();
const read = (path: string) => readFileSync(join(places.target, path), 'utf8');
const run = (release: string, options = {}) => inWords(update(places, release, options));
/** What is in the tree, the lock file and the patches. */
const everything = () =>
  [places.target, places.patches]
    .map((place) => readdirSync(place).map((name) => [name, name.endsWith('.git') || readFileSync(join(place, name), 'utf8')]))
    .concat([[['lock', readFileSync(places.lockFile, 'utf8')]]]);

/** Commits a release, tags it and puts it into the package that the made-up npm gives. */
function release(tag: string, files: Record<string, string | undefined>) {
  for (const [path, text] of Object.entries(files)) {
    if (text === undefined) rmSync(join(upstream, path));
    else writeFileSync(join(upstream, path), text);
  }
  git('add', '--all');
  git('commit', '-m', tag);
  git('tag', tag);
  const packed = join(folder, 'package');
  mkdirSync(join(packed, 'llama'), { recursive: true });
  git('bundle', 'create', join(packed, 'llama/gitRelease.bundle'), 'HEAD');
  writeFileSync(join(packed, 'llama/llama.cpp.info.json'), JSON.stringify({ tag }));
  writeFileSync(join(packed, 'package.json'), JSON.stringify({ name: 'made-up', version: '2.0.0' }));
  execFileSync('tar', ['-czf', join(folder, 'made-up.tgz'), '-C', folder, 'package']);
}

beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'llama-duo-update-')));
  upstream = join(folder, 'upstream');
  places = {
    lockFile: join(folder, 'lock.json'),
    patches: join(folder, 'patches'),
    target: join(folder, 'vendor/tree'),
    cache: join(folder, 'cache'),
  };
  for (const name of ['upstream', 'patches', 'bin']) mkdirSync(join(folder, name));
  const npm = join(folder, 'bin/npm');
  writeFileSync(npm, `#!/bin/sh\ncp '${folder}/made-up.tgz' made-up-2.0.0.tgz && echo made-up-2.0.0.tgz\n`);
  chmodSync(npm, 0o755);
  vi.stubEnv('PATH', [join(folder, 'bin'), process.env['PATH']].join(delimiter));

  git('init');
  release('v1', firstRelease);
  const tree = git('rev-parse', 'HEAD^{tree}');
  const lock = { tag: 'v1', tree, sources: [{ kind: 'git', url: pathToFileURL(upstream).href, tag: 'v1' }], patchedTree: tree };
  writeFileSync(places.lockFile, JSON.stringify({ ...lock, patches: [] }));
  vendor(places);
  for (const [path, text] of Object.entries(ours)) writeFileSync(join(places.target, path), text);
  const patches = Object.keys(ours).map((path) => ({ file: `${path}.patch`, paths: [path], sha256: '' }));
  writeFileSync(join(places.patches, 'cache.c.patch'), 'Why this is so.\n\n');
  writeFileSync(places.lockFile, JSON.stringify({ ...lock, patches }));
  exportPatches(places);
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

describe('where all changes fit', () => {
  // one line of context, and a line number, would put the call into three()
  const moved = lines(...function_('none'), ...function_('zero'), ...firstRelease['many.c'].trimEnd().split('\n'));

  it('moves the pin and writes the patches', () => {
    release('v2', { 'many.c': moved, 'other.c': lines('int z;') });
    expect(run('made-up@2.0.0')).toBe('');

    expect(read('many.c')).toBe(lines(...function_('none'), ...function_('zero'), ...ours['many.c'].trimEnd().split('\n')));
    expect(read('cache.c')).toBe(ours['cache.c']);
    expect(read('other.c')).toBe('int z;\n');
    expect(readFileSync(join(places.patches, 'cache.c.patch'), 'utf8')).toMatch(/^Why this is so\.\n\ndiff/);
    const lock = readLock(places.lockFile);
    const tarball = readFileSync(join(folder, 'made-up.tgz'));
    expect(lock).toMatchObject({ tag: 'v2', tree: git('rev-parse', 'HEAD^{tree}') });
    expect(lock.sources).toMatchObject([
      { kind: 'npm', package: 'made-up', version: '2.0.0', integrity: `sha512-${createHash('sha512').update(tarball).digest('base64')}` },
      { kind: 'git', tag: 'v2' },
    ]);
    expect(() => checkPatches(places)).not.toThrow();
    expect(readdirSync(places.cache)).toEqual([]);

    // and whoever has nothing but the lock file and the patches gets the same
    rmSync(places.target, { recursive: true });
    vendor(places);
    expect(read('many.c')).toContain('ours();');
    expect(() => checkPatches(places)).not.toThrow();
  });

  it('takes a tag of the repository, too', () => {
    release('v2', { 'many.c': moved });
    expect(run('v2')).toBe('');
    expect(read('many.c')).toContain('ours();');
    expect(readLock(places.lockFile).sources).toEqual([{ kind: 'git', url: pathToFileURL(upstream).href, tag: 'v2' }]);
  });

  it('does nothing where that release is there', () => {
    const before = everything();
    expect(run('v1')).toBe('');
    expect(everything()).toEqual(before);
  });
});

describe('where one does not fit', () => {
  const next = { 'cache.c': lines('new', 'a', 'b', 'c', 'd', 'e', 'f', 'gg', 'h') };

  it('names patch, file and hunk, merges the rest, and takes no patches before it is mended', () => {
    release('v2', next);
    expect(run('made-up@2.0.0')).toBe('cache.c.patch: cache.c: @@ -6,3 +6,3 @@ e');
    expect(read('cache.c')).toBe(
      lines(
        'new',
        'a',
        'B',
        'c',
        'd',
        'e',
        'f',
        '<<<<<<< llama.cpp v2',
        'gg',
        '||||||| llama.cpp v1',
        'g',
        '=======',
        'G',
        '>>>>>>> cache.c.patch',
        'h',
      ),
    );
    expect(read('many.c')).toBe(ours['many.c']);
    expect(() => exportPatches(places)).toThrow(/cache\.c in .*there are conflicts to mend. Look for <<<<<<</);
    expect(() => vendor(places)).toThrow(/has local changes:\ncache\.c\nmany\.c/);

    writeFileSync(join(places.target, 'cache.c'), lines('new', 'a', 'B', 'c', 'd', 'e', 'f', 'GG', 'h'));
    exportPatches(places);
    expect(() => checkPatches(places)).not.toThrow();
    expect(readLock(places.lockFile).tag).toBe('v2');
  });

  it('says so beforehand, and changes nothing', () => {
    release('v2', next);
    const before = everything();
    expect(run('made-up@2.0.0', { check: true })).toBe('cache.c.patch: cache.c: @@ -6,3 +6,3 @@ e');
    expect(everything()).toEqual(before);
    expect(readdirSync(places.cache)).toEqual([]);
  });

  it('names a file that is gone', () => {
    release('v2', { 'cache.c': undefined });
    expect(run('v2')).toBe('cache.c.patch: cache.c: llama.cpp has no such file any more');
    expect(() => exportPatches(places)).toThrow(/cache\.c of cache\.c\.patch is not changed/);
  });

  it('names a file of ours whose name llama.cpp takes', () => {
    writeFileSync(join(places.target, 'new.c'), 'ours\n');
    const lock = readLock(places.lockFile);
    const patches = [...lock.patches, { file: 'new.c.patch', paths: ['new.c'], sha256: '' }];
    writeFileSync(places.lockFile, JSON.stringify({ ...lock, patches }));
    exportPatches(places);
    release('v2', { 'other.c': lines('int z;') });
    expect(run('v2')).toBe('');
    expect(read('new.c')).toBe('ours\n');
    release('v3', { 'new.c': 'theirs\n' });
    expect(run('v3')).toBe('new.c.patch: new.c: llama.cpp has a file of that name now');
    expect(read('new.c')).toBe('theirs\n');
  });
});

it('refuses where there are changes that are in no patch', () => {
  release('v2', { 'other.c': lines('int z;') });
  writeFileSync(join(places.target, 'other.c'), 'mine\n');
  expect(() => run('v2')).toThrow(/has local changes:\nother\.c/);
  expect(read('other.c')).toBe('mine\n');
});

it('leaves everything as it is where the release cannot be had', () => {
  const before = everything();
  expect(() => run('v9')).toThrow(/v9 could not be downloaded/);
  expect(everything()).toEqual(before);
  expect(existsSync(places.target)).toBe(true);
});
