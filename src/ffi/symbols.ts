/**
 * The C functions of cpp/abi/llama-duo-abi.h, with their parameters in C's own words. All return `int32_t`.
 * test/unit/symbols.test.ts compares this table with the header.
 */
export const symbols = {
  llama_duo_abi_version: [],
  llama_duo_build_id: ['void *', 'int32_t', 'int32_t *'],
  llama_duo_build_info: ['void *', 'int32_t', 'int32_t *'],
  llama_duo_log_drain: ['void *', 'int32_t', 'int32_t *'],

  llama_duo_job_poll: ['uint32_t', 'int32_t *', 'double *'],
  llama_duo_job_result: ['uint32_t', 'void *', 'int32_t', 'int32_t *'],
  llama_duo_job_data: ['uint32_t', 'void *', 'int32_t', 'int32_t *'],
  llama_duo_job_error: ['uint32_t', 'void *', 'int32_t', 'int32_t *'],
  llama_duo_job_cancel: ['uint32_t'],
  llama_duo_job_free: ['uint32_t'],

  llama_duo_devices: ['const void *', 'int32_t', 'uint32_t *'],
  llama_duo_model_fetch: ['const void *', 'int32_t', 'uint32_t *'],
  llama_duo_model_load: ['const void *', 'int32_t', 'uint32_t *'],
  llama_duo_model_free: ['uint32_t', 'uint32_t *'],
  llama_duo_tokenize: ['uint32_t', 'const void *', 'int32_t', 'int32_t', 'int32_t *', 'int32_t', 'int32_t *'],
  llama_duo_tokenize_long: ['uint32_t', 'const void *', 'int32_t', 'int32_t', 'uint32_t *'],
  llama_duo_detokenize: ['uint32_t', 'const int32_t *', 'int32_t', 'int32_t', 'void *', 'int32_t', 'int32_t *'],
  llama_duo_lora_load: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_lora_free: ['uint32_t'],

  llama_duo_gates_read: ['const void *', 'int32_t', 'uint32_t *'],
  llama_duo_gates_select: ['const void *', 'int32_t', 'uint32_t *'],
  llama_duo_gates_embed: ['const void *', 'int32_t', 'uint32_t *'],
  llama_duo_calibrate: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],

  llama_duo_context_create: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_context_plan: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_context_estimate: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_context_free: ['uint32_t', 'uint32_t *'],
  llama_duo_generate: ['uint32_t', 'const int32_t *', 'int32_t', 'const void *', 'int32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_score: ['uint32_t', 'const int32_t *', 'int32_t', 'const void *', 'int32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_job_drain: ['uint32_t', 'int32_t *', 'int32_t', 'void *', 'int32_t', 'int32_t *'],
  llama_duo_job_drain_choice: ['uint32_t', 'int32_t', 'int32_t *', 'int32_t', 'void *', 'int32_t', 'int32_t *'],
  llama_duo_job_drain_log_probs: ['uint32_t', 'int32_t', 'double *', 'int32_t', 'int32_t *'],

  llama_duo_sequence_create: ['uint32_t', 'uint32_t *'],
  llama_duo_sequence_free: ['uint32_t'],
  llama_duo_sequence_size: ['uint32_t', 'int32_t *', 'int32_t *'],
  llama_duo_sequence_fork: ['uint32_t', 'uint32_t *'],
  llama_duo_sequence_append: ['uint32_t', 'const int32_t *', 'int32_t', 'const void *', 'int32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_sequence_truncate: ['uint32_t', 'int32_t', 'uint32_t *'],
  llama_duo_sequence_logits: ['uint32_t', 'uint32_t *'],
  llama_duo_sequence_generate: [
    'uint32_t',
    'const int32_t *',
    'int32_t',
    'const void *',
    'int32_t',
    'const void *',
    'int32_t',
    'uint32_t *',
  ],
  llama_duo_sequence_score: ['uint32_t', 'const int32_t *', 'int32_t', 'const void *', 'int32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_sequence_save: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_sequence_load: ['uint32_t', 'const void *', 'int32_t', 'const void *', 'int32_t', 'uint32_t *'],

  llama_duo_embedder_create: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_embedder_free: ['uint32_t', 'uint32_t *'],
  llama_duo_embed: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_rank: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],

  llama_duo_chat_apply: ['uint32_t', 'const void *', 'int32_t', 'uint32_t *'],
  llama_duo_chat_parse: ['const void *', 'int32_t', 'uint32_t *'],
  llama_duo_schema_grammar: ['const void *', 'int32_t', 'uint32_t *'],

  llama_duo_own_by_this_thread: [],
  llama_duo_shutdown: ['int32_t'],
} as const satisfies Record<string, readonly ParameterType[]>;

/** Every type that a parameter of the ABI has. */
export type ParameterType =
  'int32_t' | 'uint32_t' | 'void *' | 'const void *' | 'int32_t *' | 'const int32_t *' | 'uint32_t *' | 'double *';

type Argument = {
  int32_t: number;
  uint32_t: number;
  'void *': Uint8Array | null;
  'const void *': Uint8Array | null;
  'int32_t *': Int32Array | null;
  'const int32_t *': Int32Array | null;
  'uint32_t *': Uint32Array | null;
  'double *': Float64Array | null;
};

type Arguments<Parameters extends readonly ParameterType[]> = {
  -readonly [Index in keyof Parameters]: Argument[Parameters[Index]];
};

/** The functions as a runtime binds them: nothing is checked here, src/ffi/native.ts does that. */
export type BoundSymbols = {
  readonly [Name in keyof typeof symbols]: (...args: Arguments<(typeof symbols)[Name]>) => number;
};

/** Whether a parameter is a pointer to a caller's buffer. */
export function isPointer(type: ParameterType): boolean {
  return type.endsWith('*');
}

/** The table with another value for each function: what a runtime wants to know of it, or the function itself. */
export function mapSymbols<T>(map: (parameters: readonly ParameterType[], name: string) => T): Record<keyof typeof symbols, T> {
  const entries = Object.entries<readonly ParameterType[]>(symbols);
  return Object.fromEntries(entries.map(([name, parameters]) => [name, map(parameters, name)])) as Record<keyof typeof symbols, T>;
}
