import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { OutputError } from '../../../src/errors.ts';
import { checkFolder, checkOutput, writeOutput } from '../../../src/core/outputs.ts';

let folder: string;
let path: (name: string) => string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-outputs-'));
  path = (name) => join(folder, name);
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

describe('before the work', () => {
  test('what can be written is left as it is', async () => {
    writeFileSync(path('old.json'), 'old');
    await checkOutput({ path: path('old.json'), name: '-o' });
    await checkOutput({ path: path('old.json'), name: '-o', appended: true });
    await checkOutput({ path: path('new.json'), name: '-o' });
    await checkOutput({ path: '/dev/null', name: '-o' });
    expect(readdirSync(folder)).toEqual(['old.json']);
    expect(readFileSync(path('old.json'), 'utf8')).toBe('old');
  });

  test('folders are refused, and files in folders that are not there', async () => {
    mkdirSync(path('m.duo.json'));
    await expect(checkOutput({ path: path('m.duo.json'), name: '-o' })).rejects.toThrow(/m\.duo\.json \(-o\) is a folder: name a file/);
    for (const appended of [false, true]) {
      const checked = checkOutput({ path: path('none/a.json'), name: '-o', appended });
      await expect(checked).rejects.toThrow(OutputError);
      await expect(checked).rejects.toThrow(/none\/a\.json \(-o\) cannot be written \(ENOENT: no such file or directory\): name a file/);
    }
  });

  test('a model is never written over, under whatever name it is found', async () => {
    writeFileSync(path('model.bin'), 'GGUF\u0003\0\0\0');
    symlinkSync(path('model.bin'), path('link.json'));
    for (const name of ['model.bin', 'link.json'])
      await expect(checkOutput({ path: path(name), name: '-o' })).rejects.toThrow(/is a model, which is never written over/);
    await checkOutput({ path: path('model.bin'), name: '-o', model: true });
  });

  test('nor is a file that is read', async () => {
    writeFileSync(path('in.txt'), 'text');
    symlinkSync(path('in.txt'), path('same.txt'));
    await expect(checkOutput({ path: path('same.txt'), name: '-o', inputs: [path('in.txt')] })).rejects.toThrow(/is a file that is read/);
    await checkOutput({ path: path('out.txt'), name: '-o', inputs: [path('in.txt'), path('none')] });
  });

  test('a folder is made, and must take files', async () => {
    await checkFolder(path('a/b'), '--plot');
    expect(readdirSync(path('a/b'))).toEqual([]);
    writeFileSync(path('file'), '');
    await expect(checkFolder(path('file'), '--plot')).rejects.toThrow(/file \(--plot\) cannot be written to \(EEXIST/);
  });
});

describe('writing', () => {
  test('replaces a file as a whole: whoever has it open goes on with the old one', async () => {
    writeFileSync(path('a.json'), 'old');
    const { ino } = statSync(path('a.json'));
    await writeOutput(path('a.json'), 'new');
    expect(readFileSync(path('a.json'), 'utf8')).toBe('new');
    expect(statSync(path('a.json')).ino).not.toBe(ino);
    expect(readdirSync(folder)).toEqual(['a.json']);
  });

  test('takes a name that is as long as a name can be', async () => {
    const name = path(`${'n'.repeat(250)}.csv`);
    await checkOutput({ path: name, name: '--csv' });
    await writeOutput(name, 'rows');
    expect(readFileSync(name, 'utf8')).toBe('rows');
  });

  test('a link to what is not there yet leads to it', async () => {
    mkdirSync(path('results'));
    symlinkSync('results/a.json', path('link.json'));
    symlinkSync('none/a.json', path('astray.json'));
    await expect(checkOutput({ path: path('astray.json'), name: '-o' })).rejects.toThrow(/cannot be written \(ENOENT/);
    await checkOutput({ path: path('link.json'), name: '-o' });
    await writeOutput(path('link.json'), 'new');
    expect(readFileSync(path('results/a.json'), 'utf8')).toBe('new');
    expect(readdirSync(folder)).toContain('link.json');
  });

  test('keeps permissions that the umask would not give', async () => {
    writeFileSync(path('a.json'), 'old');
    chmodSync(path('a.json'), 0o666);
    await writeOutput(path('a.json'), 'new');
    expect(statSync(path('a.json')).mode & 0o777).toBe(0o666);
  });

  test('keeps the permissions, and links', async () => {
    writeFileSync(path('a.json'), 'old');
    chmodSync(path('a.json'), 0o600);
    symlinkSync(path('a.json'), path('link.json'));
    await writeOutput(path('link.json'), 'new');
    expect(readFileSync(path('a.json'), 'utf8')).toBe('new');
    expect(statSync(path('a.json')).mode & 0o777).toBe(0o600);
    expect(readdirSync(folder)).toEqual(['a.json', 'link.json']);
  });

  test('writes to a device as it is', async () => {
    await writeOutput('/dev/null', 'gone');
    expect(statSync('/dev/null').isCharacterDevice()).toBe(true);
  });

  test('names the file where it fails, and leaves nothing behind', async () => {
    await expect(writeOutput('/dev/full', 'text')).rejects.toThrow('/dev/full cannot be written: ENOSPC: no space left on device.');
    await expect(writeOutput(path('none/a.json'), 'text')).rejects.toThrow(/none\/a\.json cannot be written: ENOENT/);
    mkdirSync(path('folder'));
    await expect(writeOutput(path('folder'), 'text')).rejects.toThrow(/folder cannot be written: EISDIR/);
    expect(readdirSync(folder)).toEqual(['folder']);
  });
});
