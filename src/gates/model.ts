import { CoreModel, loadWith, type LoadedModel } from '../core/model.ts';
import type { ModelOptions } from '../core/option-types.ts';
import type { Native } from '../ffi/native.ts';
import type { Calibration } from './calibrate.ts';
import type { CalibrateOptions } from './option-types.ts';
import { ownGates } from './own.ts';
import type { GatePattern } from './pattern.ts';

/**
 * Loads a model. Nothing blocks: the library's threads work.
 *
 * @param source the path of a GGUF file, of a split one the first part; or what {@link fetchModel} takes: `hf:user/repository:Q4_K_M`, or a URL
 * @throws DownloadError; ModelError for a file that is missing, damaged or not understood; OptionError; LibraryError; `signal.reason` when aborted
 */
export async function loadModel(source: string | URL, options: ModelOptions = {}): Promise<Model> {
  return loadWith(
    async (native, loaded) => {
      const gates = await ownGates(native, loaded).catch((error: unknown) => ({ error }));
      return new Model(native, loaded, gates);
    },
    source,
    options,
  );
}

/**
 * A loaded model. Its weights are never changed, so contexts with full and with mixed heads use one model side by side.
 * Dispose of it with `await using` or {@link Model.dispose}; its contexts may live on.
 */
export class Model extends CoreModel {
  readonly #native: Native;
  readonly #gates: GatePattern | undefined | { error: unknown };

  /** @internal */
  constructor(native: Native, loaded: LoadedModel, gates?: GatePattern | { error: unknown }) {
    super(native, loaded);
    this.#native = native;
    this.#gates = gates;
  }

  /**
   * The model's own gates, which `duo: { gates: 'auto' }` takes: those in its metadata, else those in `model.duo.json` beside it, as they were when it was
   * loaded. undefined where it has none.
   *
   * @throws GatesError where what it has is no pattern: a damaged file hinders nothing but its use
   */
  get gates(): GatePattern | undefined {
    if (this.#gates && 'error' in this.#gates) throw this.#gates.error;
    return this.#gates;
  }

  /**
   * Finds out how much each KV head needs its whole cache, with forward passes only: a gate pattern made for this model. Nothing is downloaded; texts with
   * facts to look up are made up, or facts are hidden in a text of yours.
   *
   * @throws ContextError where the model or a sample is too small for the window; UnsupportedError; OptionError; `signal.reason` when aborted
   */
  async calibrate(options: CalibrateOptions = {}): Promise<Calibration> {
    // Loaded when it is asked for, with the language that it makes texts of.
    const { calibrate } = await import('./calibrate.ts');
    return calibrate(this.#native, this, () => this.handle, options);
  }
}
