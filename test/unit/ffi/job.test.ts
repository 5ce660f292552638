import { expect, test, vi } from 'vitest';

import { ModelError } from '../../../src/errors.ts';
import { JobState } from '../../../src/ffi/native.ts';
import { runJob } from '../../../src/ffi/job.ts';
import { FakeLibrary } from '../fake-library.ts';

const { done } = JobState;

test('gives the result and frees the job', async () => {
  const library = new FakeLibrary();
  library.play([{}, {}, { state: done }], { answer: 42 });
  await expect(runJob(library.native, () => library.native.modelLoad('{}'))).resolves.toEqual({ answer: 42 });
  expect(library.jobs[0]).toMatchObject({ freed: true });
});

test('progress grows and is told once', async () => {
  const library = new FakeLibrary();
  library.play([{ progress: -1 }, { progress: 0.25 }, { progress: 0.25 }, { progress: 0.75 }, { progress: 1, state: done }]);
  const onProgress = vi.fn();
  await runJob(library.native, () => library.native.modelLoad('{}'), { onProgress });
  expect(onProgress.mock.calls).toEqual([[0.25], [0.75], [1]]);
});

test('a progress callback that throws fails the call and ends the job', async () => {
  const library = new FakeLibrary();
  library.play([{ progress: 0.5 }]);
  const onProgress = (): never => {
    throw new Error('mine');
  };
  await expect(runJob(library.native, () => library.native.modelLoad('{}'), { onProgress })).rejects.toThrow('mine');
  expect(library.jobs[0]).toMatchObject({ cancelled: true });
  await vi.waitFor(() => {
    expect(library.jobs[0]).toMatchObject({ freed: true });
  });
});

test('what was made when a progress callback throws is given back', async () => {
  const library = new FakeLibrary();
  library.play([{ progress: 1, state: done }], { model: 3 });
  const onProgress = (): never => {
    throw new Error('mine');
  };
  const discard = vi.fn();
  await expect(runJob(library.native, () => library.native.modelLoad('{}'), { onProgress, discard })).rejects.toThrow('mine');
  await vi.waitFor(() => {
    expect(discard).toHaveBeenCalledWith({ model: 3 });
  });
  expect(library.jobs[0]).toMatchObject({ freed: true });
});

test('a failed job rejects with its typed error', async () => {
  const library = new FakeLibrary();
  library.fail({ code: 'model', message: 'no such file' });
  await expect(runJob(library.native, () => library.native.modelLoad('{}'))).rejects.toThrow(ModelError);
  expect(library.jobs[0]).toMatchObject({ freed: true });
});

test('aborting rejects with the reason and cancels', async () => {
  const library = new FakeLibrary();
  library.play([{}]);
  const abort = new AbortController();
  const ended = runJob(library.native, () => library.native.modelLoad('{}'), { signal: abort.signal });
  abort.abort('stop');
  await expect(ended).rejects.toBe('stop');
  expect(library.jobs[0]).toMatchObject({ cancelled: true });
  await vi.waitFor(() => {
    expect(library.jobs[0]).toMatchObject({ freed: true });
  });
});

test('what was made although it was aborted is given back', async () => {
  const unstoppable = new FakeLibrary({ llama_duo_job_cancel: () => 0 });
  unstoppable.play([{}, {}, { state: done }], { model: 3 });
  const abort = new AbortController();
  const discard = vi.fn();
  const ended = runJob(unstoppable.native, () => unstoppable.native.modelLoad('{}'), { signal: abort.signal, discard });
  abort.abort('stop');
  await expect(ended).rejects.toBe('stop');
  await vi.waitFor(() => {
    expect(discard).toHaveBeenCalledWith({ model: 3 });
  });
});

test('aborted before: nothing is submitted', async () => {
  const library = new FakeLibrary();
  await expect(runJob(library.native, () => library.native.modelLoad('{}'), { signal: AbortSignal.abort('no') })).rejects.toBe('no');
  expect(library.jobs).toHaveLength(0);
});
