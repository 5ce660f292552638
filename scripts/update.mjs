// Moves llama.cpp to another release, with our changes merged into it.
//
//   node scripts/update.mjs RELEASE            vendor/llama.cpp, the lock file and patches/
//   node scripts/update.mjs RELEASE --check    says what would not fit, and changes nothing
//
// RELEASE: node-llama-cpp@VERSION, an npm package that holds llama.cpp's source as a git bundle, or a tag of llama.cpp's own repository.
//
// Each file is merged from three: the release that we have, what our patches make of it, and the new release. So a change finds its place by what is
// around it in the whole file, not by the one line of context in a patch. Where both sides changed the same lines, the file gets git's conflict markers.

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { diffOptions, exportPatches } from './patches.mjs';
import { llamaCpp } from './places.mjs';
import { runMain, SetupError } from './tools.mjs';
import {
  cloneBundle,
  cloneFromGit,
  hash,
  openTree,
  pack,
  readLock,
  repository,
  unpack,
  vendor,
  verifyClone,
  withIndex,
  workFolder,
} from './vendor.mjs';

/** @typedef {import('./vendor.mjs').Lock} Lock */
/** @typedef {import('./vendor.mjs').Places} Places */

/** Where node-llama-cpp has llama.cpp's source, and the tag that it is of. */
const bundlePath = 'llama/gitRelease.bundle';
const infoPath = 'llama/llama.cpp.info.json';

/**
 * @typedef {object} Misfit a change of ours that the new release leaves no place for
 * @property {string} patch
 * @property {string} path
 * @property {string} what the head of the hunk in the patch, or what became of the file
 */

/**
 * Returns what did not fit; if nothing, the patches have been written.
 * @param {Places} places
 * @param {string} release
 * @param {{ check?: boolean | undefined }} [options]
 * @param {(message: string) => void} [log]
 * @returns {Misfit[]}
 */
export function update(places, release, { check = false } = {}, log = () => {}) {
  vendor(places, log); // which also refuses where there are changes that are not in patches/
  const lock = readLock(places.lockFile);
  const ours = openTree(places.target);
  const work = workFolder(places.cache);
  try {
    log(`fetching ${release}`);
    const { clone, ...pin } = fetchRelease(release, lock, work);
    const theirs = repository(clone);
    verifyClone(theirs, release);
    const tree = theirs.pristine();
    if (tree === lock.tree) {
      log(`${release} is llama.cpp ${lock.tag}, which is there already`);
      return [];
    }

    const misfits = mergeChanges(ours, lock, pin.tag, clone, { folder: join(work, 'merge'), cache: places.cache });
    if (check) return misfits;
    renameSync(places.target, join(work, 'previous'));
    renameSync(clone, places.target);
    writeFileSync(places.lockFile, `${JSON.stringify({ ...lock, ...pin, tree }, null, 2)}\n`);
    if (misfits.length === 0) exportPatches(places);
    return misfits;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

// --- the new release ---

/**
 * Clones a release into the work folder, and says what the lock file shall say of it.
 * @param {string} release
 * @param {Lock} lock
 * @param {string} work
 * @returns {{ clone: string, tag: string, sources: Lock['sources'] }}
 */
function fetchRelease(release, lock, work) {
  const clone = join(work, 'tree');
  const git = lock.sources.filter((source) => source.kind === 'git');
  if (!release.includes('@')) {
    const [source] = git;
    if (!source)
      throw new SetupError('The lock file names no git repository to take a tag of. Give an npm package: node-llama-cpp@VERSION');
    cloneFromGit({ url: source.url, tag: release }, clone);
    return { clone, tag: release, sources: git.map((other) => ({ ...other, tag: release })) };
  }

  const tarball = pack(release, work);
  const { name, version } = /** @type {{ name: string, version: string }} */ (readJson(unpack(tarball, 'package.json', work)));
  const { tag } = /** @type {{ tag: string }} */ (readJson(unpack(tarball, infoPath, work)));
  const bundle = unpack(tarball, bundlePath, work);
  cloneBundle(bundle, clone);
  /** @type {import('./vendor.mjs').NpmSource} */
  const npm = {
    kind: 'npm',
    package: name,
    version,
    integrity: `sha512-${hash(tarball, 'sha512', 'base64')}`,
    bundle: bundlePath,
    sha256: hash(bundle, 'sha256', 'hex'),
  };
  return { clone, tag, sources: [npm, ...git.map((other) => ({ ...other, tag }))] };
}

/** @param {string} file @returns {unknown} */
function readJson(file) {
  return JSON.parse(readFileSync(file, 'utf8'));
}

// --- merging ---

/**
 * Merges our changes into the new release's working folder.
 * @param {import('./vendor.mjs').Repository} ours
 * @param {Lock} lock
 * @param {string} tag the new release's
 * @param {string} target its working folder
 * @param {{ folder: string, cache: string }} places a folder for the files to merge from
 */
function mergeChanges(ours, lock, tag, target, { folder, cache }) {
  const paths = lock.patches.flatMap((patch) => patch.paths);
  const base = lay(ours, lock.tree, paths, join(folder, 'base'), cache);
  const patched = lay(ours, lock.patchedTree, paths, join(folder, 'patched'), cache);
  return lock.patches.flatMap(({ file: patch, paths }) =>
    paths.flatMap((path) => {
      const from = { current: join(target, path), base: join(base, path), patched: join(patched, path) };
      const labels = [`llama.cpp ${tag}`, `llama.cpp ${lock.tag}`, patch];
      /** @param {string} what */
      const misfit = (what) => ({ patch, path, what });

      if (!existsSync(from.base)) {
        if (existsSync(from.current)) return [misfit('llama.cpp has a file of that name now')];
        mkdirSync(dirname(from.current), { recursive: true });
        copyFileSync(from.patched, from.current);
        return [];
      }
      if (!existsSync(from.current)) return [misfit('llama.cpp has no such file any more')];

      const hunks = hunksOf(ours.git(['diff-tree', ...diffOptions, lock.tree, lock.patchedTree, '--', path]));
      // before the file is merged as a whole
      const alone = hunks.filter((hunk) => !fitsAlone(hunk, from, join(folder, 'hunk')));
      if (merge(from, labels)) return [];
      return (alone.length > 0 ? alone : hunks).map(({ head }) => misfit(head));
    }),
  );
}

/**
 * Writes those of the files that a tree has into a folder.
 * @param {import('./vendor.mjs').Repository} repository
 * @param {string} tree
 * @param {string[]} paths
 * @param {string} folder
 * @param {string} cache
 */
function lay(repository, tree, paths, folder, cache) {
  const there = repository
    .git(['ls-tree', '-r', '--name-only', tree, '--', ...paths])
    .split('\n')
    .filter(Boolean);
  return withIndex(cache, (index) => {
    repository.git(['read-tree', tree], index);
    if (there.length > 0) repository.git(['checkout-index', `--prefix=${folder}/`, '--', ...there], index);
    return folder;
  });
}

/**
 * Merges into `current` what `patched` changed of `base`. False where both changed the same lines: those stand between markers.
 * @param {{ current: string, base: string, patched: string }} files
 * @param {string[]} labels
 */
function merge({ current, base, patched }, labels) {
  const names = labels.flatMap((label) => ['-L', label]);
  const { status, stderr } = spawnSync('git', ['merge-file', '--quiet', '--diff3', ...names, current, base, patched], { encoding: 'utf8' });
  if (status === null || status > 127) throw new SetupError(`git could not merge ${current}: ${stderr}`);
  return status === 0;
}

/**
 * @typedef {object} Hunk
 * @property {string} head its first line, as the patch has it
 * @property {number} from the first line that it replaces, counted from 0
 * @property {number} count
 * @property {string[]} lines in their place
 */

/**
 * @param {string} diff of one file
 * @returns {Hunk[]}
 */
function hunksOf(diff) {
  return diff
    .split(/^(?=@@ )/m)
    .slice(1)
    .map((text) => {
      const [head = '', ...body] = text.replace(/\n$/, '').split('\n');
      const [, line, count = '1'] = /^@@ -(\d+)(?:,(\d+))? /.exec(head) ?? [];
      const lines = body.filter((line) => /^[ +]/.test(line)).map((line) => line.slice(1));
      return { head, from: Number(line) - (count === '0' ? 0 : 1), count: Number(count), lines };
    });
}

/**
 * Whether a hunk merges by itself.
 * @param {Hunk} hunk
 * @param {{ current: string, base: string }} files
 * @param {string} folder
 */
function fitsAlone({ from, count, lines }, { current, base }, folder) {
  mkdirSync(folder, { recursive: true });
  const files = { current: join(folder, 'current'), base, patched: join(folder, 'patched') };
  const patched = readFileSync(base, 'utf8').split('\n');
  patched.splice(from, count, ...lines);
  writeFileSync(files.patched, patched.join('\n'));
  copyFileSync(current, files.current);
  return merge(files, ['', '', '']);
}

// --- the command ---

/** @param {Misfit[]} misfits */
export function describe(misfits) {
  return misfits.map(({ patch, path, what }) => `${patch}: ${path}: ${what}`).join('\n');
}

function main() {
  const { values, positionals } = parseArgs({ options: { check: { type: 'boolean' } }, allowPositionals: true });
  const [release] = positionals;
  if (release === undefined || positionals.length > 1) {
    throw new SetupError('usage: node scripts/update.mjs node-llama-cpp@VERSION | TAG [--check]');
  }
  const misfits = update(llamaCpp, release, values, (message) => console.error(`update: ${message}`));
  if (misfits.length === 0) {
    console.log(
      values.check
        ? `All of patches/ fits ${release}.`
        : `llama.cpp is ${readLock(llamaCpp.lockFile).tag} now. Build and test it: docs/updating.md`,
    );
    return;
  }
  const next = values.check
    ? 'Nothing was changed.'
    : `The rest is merged. Look for <<<<<<< in those files of ${llamaCpp.target}, mend them, and write the patches: node scripts/patches.mjs export`;
  throw new SetupError(`${misfits.length} changes do not fit ${release}:\n${describe(misfits)}\n${next}`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) runMain(main);
