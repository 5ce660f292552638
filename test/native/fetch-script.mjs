// Fetches or loads a model in a process of its own: where models come from and go to is said by the environment, which not every runtime lets a program change.

/** @typedef {{ source: string, options: object, load: boolean, abortAt: number }} Asked */
const [index = '', request = '{}'] = process.argv.slice(2);
// eslint-disable-next-line @typescript-eslint/no-unsafe-assignment -- the rule does not see the type
const { fetchModel, loadModel } = /** @type {typeof import('../../src/index.ts')} */ (await import(index));
// eslint-disable-next-line @typescript-eslint/no-unsafe-assignment -- the rule does not see the type
const { source, options, load, abortAt } = /** @type {Asked} */ (JSON.parse(request));

const abort = new AbortController();
/** @type {[number, string | undefined][]} */
const progress = [];
/**
 * @param {number} done
 * @param {string} [phase]
 */
const onProgress = (done, phase) => {
  progress.push([done, phase]);
  if (done >= abortAt) abort.abort(new Error('enough'));
};
const all = { ...options, onProgress, signal: abort.signal };
try {
  if (load) {
    const model = await loadModel(source, all);
    console.log(JSON.stringify({ progress, path: model.info.path, layers: model.info.layers }));
    await model.dispose();
  } else console.log(JSON.stringify({ progress, path: await fetchModel(source, all) }));
} catch (error) {
  const { name, code, message, option } = /** @type {Error & { code?: string, option?: string }} */ (error);
  console.log(JSON.stringify({ progress, error: { name, code, message, option } }));
}
