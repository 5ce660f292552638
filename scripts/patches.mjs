// For those who change llama.cpp: patches/ from the edited source tree, and back.
//
//   node scripts/patches.mjs export   writes patches/ and the lock file from vendor/llama.cpp as it is now
//   node scripts/patches.mjs check    checks that patches/, the lock file and vendor/llama.cpp agree
//
// Which file belongs to which patch is written in the lock file: "paths" of each entry of "patches". For a new patch, add an entry with "file" and
// "paths" and export. The text above a patch's first diff says why it is there; it is kept.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { llamaCpp } from './places.mjs';
import { runMain, SetupError } from './tools.mjs';
import {
  applyPatches,
  hash,
  laidOut,
  localChanges,
  openTree,
  patchesIn,
  readLock,
  recordLaidOut,
  verifiedPatches,
  withIndex,
} from './vendor.mjs';

/** One line around a change: enough to find it, and little for the next release to disturb. */
export const diffOptions = [
  '-p',
  '-U1',
  '--full-index',
  '--no-renames',
  '--no-color',
  '--no-ext-diff',
  '--src-prefix=a/',
  '--dst-prefix=b/',
];

/** @param {import('./vendor.mjs').Places} places */
export function exportPatches({ lockFile, patches: folder, target, cache }) {
  const lock = readLock(lockFile);
  const tree = openTree(target);
  const edited = withIndex(cache, (index) => {
    tree.git(['read-tree', lock.tree], index);
    tree.git(['add', '--all'], index);
    return tree.git(['write-tree'], index);
  });

  const changed = tree.git(['diff-tree', '-r', '--name-only', '--no-renames', lock.tree, edited]).split('\n').filter(Boolean);
  requireOneOwner(changed, lock);
  requireMerged(changed, target);
  const named = new Set(lock.patches.map(({ file }) => file));
  const stray = patchesIn(folder).filter((file) => !named.has(file));
  if (stray.length > 0)
    throw new SetupError(`The lock file does not name ${stray.join(', ')} in ${folder}. Delete it, or add it to "patches".`);

  mkdirSync(folder, { recursive: true });
  const patches = lock.patches.map(({ file, paths }) => {
    const path = join(folder, file);
    writeFileSync(path, `${preamble(path)}${tree.git(['diff-tree', ...diffOptions, lock.tree, edited, '--', ...paths])}\n`);
    return { file, paths, sha256: hash(path, 'sha256', 'hex') };
  });
  const applied = applyPatches(tree, lock.tree, verifiedPatches({ ...lock, patches }, folder), cache);
  if (applied !== edited)
    throw new SetupError(`The exported patches make tree ${applied} and not ${edited}: is a binary file among the changes?`);

  writeFileSync(lockFile, `${JSON.stringify({ ...lock, patches, patchedTree: edited }, null, 2)}\n`);
  tree.git(['read-tree', edited]);
  recordLaidOut(tree, edited);
}

/** @param {import('./vendor.mjs').Places} places */
export function checkPatches({ lockFile, patches: folder, target, cache }) {
  const lock = readLock(lockFile);
  const tree = openTree(target);
  const applied = applyPatches(tree, lock.tree, verifiedPatches(lock, folder), cache);
  if (applied !== lock.patchedTree) throw new SetupError(`patches/ make tree ${applied}, but the lock file says ${lock.patchedTree}.`);
  if (laidOut(tree) !== applied) throw new SetupError(`${target} has other patches applied. Run: node scripts/setup.mjs --only vendor`);
  const changes = localChanges(tree);
  if (changes !== '') throw new SetupError(`${target} has local changes:\n${changes}\nKeep them with: node scripts/patches.mjs export`);
}

/**
 * @param {string[]} changed
 * @param {import('./vendor.mjs').Lock} lock
 */
function requireOneOwner(changed, lock) {
  const problems = changed.flatMap((path) => {
    const owners = lock.patches.filter(({ paths }) => paths.includes(path)).map(({ file }) => file);
    if (owners.length === 1) return [];
    return [owners.length === 0 ? `${path} belongs to no patch` : `${path} belongs to ${owners.join(' and ')}`];
  });
  const unchanged = lock.patches.flatMap(({ file, paths }) =>
    paths.filter((path) => !changed.includes(path)).map((path) => `${path} of ${file} is not changed`),
  );
  if (problems.length + unchanged.length === 0) return;
  throw new SetupError(
    `${[...problems, ...unchanged].join('\n')}\nSay in the lock file which patch each changed file belongs to: "paths" of "patches".`,
  );
}

/**
 * @param {string[]} changed
 * @param {string} target
 */
function requireMerged(changed, target) {
  const conflicts = changed.filter((path) => existsSync(join(target, path)) && /^<<<<<<< /m.test(readFileSync(join(target, path), 'utf8')));
  if (conflicts.length > 0) throw new SetupError(`${conflicts.join(', ')} in ${target}: there are conflicts to mend. Look for <<<<<<<`);
}

/** What a patch says above its first diff.
 * @param {string} path */
function preamble(path) {
  if (!existsSync(path)) return '';
  const text = readFileSync(path, 'utf8');
  const start = text.search(/^diff --git /m);
  return start === -1 ? text : text.slice(0, start);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  runMain(() => {
    const command = process.argv[2];
    if (command === 'export') exportPatches(llamaCpp);
    else if (command === 'check') checkPatches(llamaCpp);
    else throw new SetupError('usage: node scripts/patches.mjs export | check');
  });
}
