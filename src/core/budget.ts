/** What a size in words may end with, and the bytes of one. */
const units: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  K: 2 ** 10,
  KiB: 2 ** 10,
  M: 2 ** 20,
  MiB: 2 ** 20,
  G: 2 ** 30,
  GiB: 2 ** 30,
  T: 2 ** 40,
  TiB: 2 ** 40,
};

/** A budget as the library has it: up to 1 a share of the bytes of a full f16 cache, above it bytes. undefined: it is none. */
export function budgetNumber(budget: unknown): number | undefined {
  const [, digits = '', unit = ''] = typeof budget === 'string' ? (/^(\d+(?:\.\d*)?|\.\d+)([A-Za-z]*)$/.exec(budget) ?? []) : [];
  const number = typeof budget === 'number' ? budget : digits === '' ? NaN : Number(digits) * (units[unit] ?? NaN);
  const isSize = number > 1 && number <= Number.MAX_SAFE_INTEGER;
  // A share of a unit, such as 0.0000001K, is no share of a cache.
  return isSize || (number >= leastShare && number <= 1 && unit === '') ? number : undefined;
}

const leastShare = 1e-6;
