import fc from 'fast-check';

import type { GatePatternJson, WindowLosses } from '../src/core/duo.ts';

// -0 is 0 in JSON
const gate = fc.float({ min: 0, max: 1, noNaN: true }).map((x) => x + 0);
const loss = fc.float({ noNaN: true, noDefaultInfinity: true }).map((x) => x + 0);
const window = fc.integer({ min: 0, max: 1 << 29 });

const maybe = <Key extends string, Value>(key: Key, value: fc.Arbitrary<Value>): fc.Arbitrary<Partial<Record<Key, Value>>> =>
  fc.option(value.map((found) => ({ [key]: found }) as Record<Key, Value>)).map((found) => found ?? {});

/** The same to 32 bits, in which the library keeps gates and losses. */
export function in32Bits(pattern: GatePatternJson): GatePatternJson {
  const { gates, losses } = pattern;
  return {
    ...pattern,
    gates: gates.map((row) => row.map(Math.fround)),
    ...(losses && { losses: { ...losses, heads: losses.heads.map((row) => row.map((head) => head.map(Math.fround))) } }),
  };
}

/** Patterns of any shape that numbers of 32 bits can be in, with what version 2 adds and without. */
export function patterns(): fc.Arbitrary<GatePatternJson> {
  // layers with fewer heads than the widest, or none
  const shapes = fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 6 }).filter((counts) => Math.max(...counts) > 0);
  return shapes.chain((counts) => {
    const perHead = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T[][]> =>
      fc.tuple(...counts.map((count) => fc.array(value, { minLength: count, maxLength: count })));
    const losses: fc.Arbitrary<WindowLosses> = fc.uniqueArray(window, { minLength: 1, maxLength: 4 }).chain((found) => {
      const windows = [...found].sort((a, b) => a - b);
      return perHead(fc.array(loss, { minLength: windows.length, maxLength: windows.length })).map((heads) => ({ windows, heads }));
    });
    return fc
      .tuple(
        perHead(gate),
        maybe('sink', window),
        maybe('recent', window),
        maybe('windows', perHead(window)),
        maybe('sinks', fc.array(window, { minLength: counts.length, maxLength: counts.length })),
        maybe('losses', losses),
        maybe(
          'provenance',
          fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), fc.oneof(fc.string(), fc.integer(), fc.boolean()), { noNullPrototype: true }),
        ),
      )
      .map(([gates, sink, recent, windows, sinks, found, provenance]) => {
        const more = { ...sink, ...recent, ...windows, ...sinks, ...found, ...provenance };
        const isNew = 'windows' in more || 'sinks' in more || 'losses' in more;
        return { llamaDuoPattern: isNew ? 2 : 1, layers: counts.length, kvHeads: Math.max(...counts), gates, ...more };
      });
  });
}
