import { randomBytes } from 'node:crypto';
import { access, constants, mkdir, open, readlink, realpath, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';

import { OutputError } from '../errors.ts';

/** A file that is to be written, and what it may not be. */
export type Output = {
  path: string;
  /** The flag or argument that names it, for messages. */
  name: string;
  /** Files that are read, and would be lost if they were written over. */
  inputs?: readonly string[];
  /** Whether lines are appended to what is there. Default: the file is replaced as a whole. */
  appended?: boolean;
  /** Whether it is a model itself, so that another model may be replaced by it. Default: false. */
  model?: boolean;
};

/**
 * Makes sure, before any work is done, that its result can be written. Nothing is changed.
 *
 * @throws OutputError that says what is wrong and what to do
 */
export async function checkOutput({ path, name, inputs = [], appended = false, model = false }: Output): Promise<void> {
  const refuse = (why: string, advice: string): OutputError => new OutputError(`${path} (${name}) ${why}: ${advice}.`);
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory()) throw refuse('is a folder', 'name a file');
  if (found?.isFile()) {
    for (const input of inputs) {
      const read = await stat(input).catch(() => undefined);
      if (read && read.dev === found.dev && read.ino === found.ino) throw refuse('is a file that is read', 'name another file');
    }
    if (!model && (await begins(path, 'GGUF'))) throw refuse('is a model, which is never written over', 'name another file');
  }
  try {
    if (found) await access(path, constants.W_OK);
    if (!found || (found.isFile() && !appended)) await probe(dirname(await realPath(path)));
  } catch (error) {
    throw refuse(`cannot be written (${textOf(error)})`, 'name a file in a folder that is there and can be written to');
  }
}

/**
 * Makes a folder if need be, and makes sure that files can be made in it.
 *
 * @throws OutputError
 */
export async function checkFolder(folder: string, name: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
    await probe(folder);
  } catch (error) {
    throw new OutputError(`${folder} (${name}) cannot be written to (${textOf(error)}): name another folder.`);
  }
}

/**
 * Writes a file as a whole: whoever reads it finds the old content or the new one, also where the disk is full or the power fails. A link's target is
 * replaced, not the link; a device or a pipe is written to.
 *
 * @throws OutputError with the path; what was there is still there
 */
export async function writeOutput(path: string, content: string | Uint8Array): Promise<void> {
  try {
    const target = await realPath(path);
    const found = await stat(target).catch(() => undefined);
    if (found && !found.isFile()) await writeFile(target, content);
    else await replace(target, content, found?.mode);
  } catch (error) {
    throw new OutputError(`${path} cannot be written: ${textOf(error)}.`, { cause: error });
  }
}

async function replace(target: string, content: string | Uint8Array, mode: number | undefined): Promise<void> {
  const temporary = temporaryIn(dirname(target));
  const file = await open(temporary, 'wx');
  try {
    try {
      if (mode !== undefined) await file.chmod(mode & 0o7777); // a new file's mode is subject to the umask
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Nothing but making a file tells whether one can be made. */
async function probe(folder: string): Promise<void> {
  const file = temporaryIn(folder);
  await (await open(file, 'wx')).close();
  await rm(file);
}

/** A link's target, whether or not it is there; the path itself where it is no link. */
async function realPath(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch {
    const target = await readlink(path).catch(() => undefined);
    return target === undefined ? path : resolve(dirname(path), target);
  }
}

async function begins(path: string, magic: string): Promise<boolean> {
  const file = await open(path).catch(() => undefined);
  if (!file) return false;
  try {
    const { buffer } = await file.read(Buffer.alloc(magic.length), 0, magic.length, 0);
    return buffer.toString('latin1') === magic;
  } finally {
    await file.close();
  }
}

/** A short name: one made of the target's would be too long where the target's is as long as can be. */
function temporaryIn(folder: string): string {
  return join(folder, `.llama-duo-${randomBytes(4).toString('hex')}.part`);
}

/** What the system says, without its call and the name of a file that only this code knows. */
function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { syscall } = error as NodeJS.ErrnoException;
  return syscall === undefined ? error.message : (error.message.split(`, ${syscall}`)[0] ?? error.message);
}
