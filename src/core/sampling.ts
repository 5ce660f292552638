/** llama.cpp's samplers, by its names. */
export const samplers = [
  'penalties',
  'dry',
  'top_n_sigma',
  'top_k',
  'typ_p',
  'top_p',
  'min_p',
  'xtc',
  'temperature',
  'infill',
  'adaptive_p',
] as const;
export type Sampler = (typeof samplers)[number];

/** What is added to the logits of tokens, by id or for each token of a text; false: never that one. */
export type LogitBias = ReadonlyMap<number | string, number | false> | readonly (readonly [number | string, number | false])[];
