import { ContextError, OptionError } from '../errors.ts';
import { Encoder } from './encoder.ts';
import { haystackSteps } from './haystack.ts';
import { fill, keys, list, sentence, texts, value } from './language.ts';
import { Random } from './random.ts';
import type { CoreModel } from '../core/model.ts';
import { inSlices } from '../core/slices.ts';

/** A text to calibrate on: a context, then questions whose answers can only be told from it. */
export type CalibrationSample = {
  tokens: number[];
  /** Tokens before the first question. */
  context: number;
  /** The first token of each answer, and the one behind its last. */
  answers: [number, number][];
};

export type SampleOptions = {
  /** Tokens of a sample. */
  contextSize: number;
  /** Questions of a sample. */
  questions: number;
  /** What a streaming head sees: no answer lies there when it is asked for. */
  sink: number;
  recent: number;
  seed: number;
  /** Running text to hide facts in; undefined: it is made up. */
  text?: string | undefined;
};

/**
 * Samples of one size. The same options always give the same. The event loop goes on meanwhile.
 *
 * @throws ContextError where the model was trained for fewer tokens, OptionError where the size has no room for what it should hold; `signal.reason`
 */
export async function calibrationSamples(
  model: Pick<CoreModel, 'tokenize' | 'info'>,
  count: number,
  options: SampleOptions,
  signal?: AbortSignal,
): Promise<CalibrationSample[]> {
  return inSlices(sampling(model, count, options), signal);
}

function* sampling(
  model: Pick<CoreModel, 'tokenize' | 'info'>,
  count: number,
  options: SampleOptions,
): Generator<void, CalibrationSample[], void> {
  const { trainedContextSize: trained, addBos, bosToken } = model.info;
  if (options.contextSize > trained) {
    throw new ContextError(
      `Samples of ${options.contextSize} tokens are more than the ${trained} that the model was trained for: take smaller ones, and a window to match.`,
    );
  }
  const before = addBos && bosToken !== null ? [bosToken] : [];
  const encoder = new Encoder(model);
  const running = options.text === undefined ? undefined : yield* sentencesOf(options.text);
  const samples: CalibrationSample[] = [];
  for (let index = 0; index < count; index++) {
    samples.push(yield* sample(encoder, before, running, options, new Random(options.seed, 'calibration', index)));
  }
  return samples;
}

/** What is hidden in a context, in this order, and what asks for it: the question, then answers, each with what leads to it. */
type Fact = { statements: string[]; question: string; answers: { lead: string; text: string }[] };

function* sample(
  encoder: Encoder,
  before: readonly number[],
  running: string[] | undefined,
  options: SampleOptions,
  random: Random,
): Generator<void, CalibrationSample, void> {
  const { contextSize, questions, sink, recent } = options;
  const facts = random.shuffle(factsOf(questions, random));
  const statements = random.interleave(facts.map((fact) => fact.statements)).map((statement) => encoder.next(` ${statement}`));
  const head = [...before, ...encoder.opening(texts('multi-key').intro + sentence(random))];

  const tail: number[] = [];
  const answers: [number, number][] = [];
  for (const fact of random.shuffle(facts)) {
    tail.push(...encoder.next(fact.question));
    for (const { lead, text } of fact.answers) {
      if (lead !== '') tail.push(...encoder.next(lead));
      const first = tail.length;
      tail.push(...encoder.next(text));
      answers.push([first, tail.length]);
    }
  }

  const room = contextSize - head.length - statements.flat().length - tail.length;
  const { tokens, gaps } = room > recent ? yield* filler(room, encoder, random, running) : { tokens: [], gaps: [] };
  // Behind the sinks, and before what the first question's tokens see.
  const places = gaps.filter((gap) => gap >= sink - head.length && gap <= room - recent);
  if (places.length < statements.length) {
    const least = contextSize - room + sink + recent + statements.length * tokensOfSentence;
    throw new OptionError(
      'contextSize',
      contextSize,
      `about ${least} tokens or more: ${questions} questions, ${sink} sinks and ${recent} recent keys, and something between`,
    );
  }

  const pieces = [head]; // not pushed token by token: a long text is more than a call takes arguments
  let done = 0;
  statements.forEach((statement, index) => {
    // One in each of as many equal parts of the context.
    const place = places[Math.floor(((index + random.fraction()) / statements.length) * places.length)] ?? done;
    pieces.push(tokens.slice(done, place), statement);
    done = place;
  });
  const context = [...pieces, tokens.slice(done)].flat();
  const move = context.length;
  return { tokens: [...context, ...tail], context: move, answers: answers.map(([first, end]) => [move + first, move + end]) };
}

/** About what a sentence takes. */
const tokensOfSentence = 16;

function* filler(
  room: number,
  encoder: Encoder,
  random: Random,
  running: string[] | undefined,
): Generator<void, { tokens: number[]; gaps: number[] }, void> {
  if (!running) return yield* haystackSteps(room, encoder, random);
  const tokens: number[] = [];
  const gaps = [0];
  // Only what is needed of the text becomes tokens: it may be a book.
  const first = random.below(Math.max(1, running.length));
  for (let read = 0; tokens.length < room; read++) {
    if (read === running.length) throw new OptionError('text', `${tokens.length} tokens`, `a text of at least ${room} tokens`);
    for (const token of encoder.next(running[(first + read) % running.length] ?? '')) tokens.push(token);
    if (tokens.length <= room) gaps.push(tokens.length);
    yield;
  }
  return { tokens: tokens.slice(0, room), gaps };
}

/** The sentences of a text, each with the white space before it. One that goes on for thousands of characters is cut, so that none takes long. */
function* sentencesOf(text: string): Generator<void, string[], void> {
  const sentences: string[] = [];
  let space = '';
  for (const [part] of text.matchAll(/\s+|\S[^.!?\n]{0,4000}[.!?]{0,1000}/gu)) {
    if (/^\s/.test(part)) space = part.slice(-1000);
    else {
      sentences.push((space || ' ') + part);
      space = '';
    }
    yield;
  }
  return sentences;
}

/**
 * What a long context is asked for in use: one thing, several at once in one answer, all values of a key, and what follows from what was said in several
 * places. What is not asked for is not found: a head that only the second of two answers needs looks needless where one is asked for.
 */
function factsOf(count: number, random: Random): Fact[] {
  const words = random.shuffle(keys);
  const names = random.shuffle(texts('multi-passkey').names);
  const kinds = [number, passkey, severalKeys, severalValues, chain];
  return Array.from({ length: count }, (_, index) => (kinds[index % kinds.length] ?? number)({ words, names, random }));
}

/** Words and names that no other fact of the sample has. */
type Unused = { words: string[]; names: string[]; random: Random };

function take(items: string[]): string {
  return items.pop() ?? '';
}

/** A number that goes with a word. */
function number({ words, random }: Unused): Fact {
  const t = texts('multi-key');
  const slots = { key: take(words), value: value(random) };
  return {
    statements: [fill(t.needle, slots)],
    question: fill(t.question + t.answer, slots),
    answers: [{ lead: '', text: fill(t.expected, slots) }],
  };
}

/** A passkey, told apart by a word that running text has, too. */
function passkey({ names, random }: Unused): Fact {
  const t = texts('multi-passkey');
  const slots = { name: take(names), value: value(random) };
  const question = fill(`${texts('passkey').question.replace(/\?$/, ` {name}?`)}${t.answer}`, slots);
  return { statements: [fill(t.needle, slots)], question, answers: [{ lead: '', text: fill(t.expected, slots) }] };
}

/** The numbers of two words, in one answer. */
function severalKeys({ words, random }: Unused): Fact {
  const t = texts('multi-query');
  const all = Array.from({ length: t.asked }, () => ({ key: take(words), value: value(random) }));
  const question = fill(t.question + t.answer, { key: all[0]?.key ?? '', keys: list(all.map(({ key }) => key)) });
  const answers = all.map((slots, index) => ({ lead: index === 0 ? '' : fill(t.join, slots), text: fill(t.expected, slots) }));
  return { statements: random.shuffle(all).map((slots) => fill(t.needle, slots)), question, answers };
}

/** The two numbers of one word, in the order of the text. */
function severalValues({ words, random }: Unused): Fact {
  const t = texts('multi-value');
  const key = take(words);
  const all = Array.from({ length: t.needles }, () => ({ key, value: value(random) }));
  const answers = all.map((slots, index) => ({ lead: index === 0 ? '' : fill(t.join, slots), text: fill(t.expected, slots) }));
  return { statements: all.map((slots) => fill(t.needle, slots)), question: fill(t.question + t.answer, { key }), answers };
}

/** A number that was given to a variable, and that variable to others in turn: each link of the way back is an answer. */
function chain({ words, random }: Unused): Fact {
  const t = texts('variable-tracking');
  const variables = Array.from({ length: t.hops + 1 }, () => take(words));
  const slots = { value: value(random), variable: variables.at(-1) ?? '' };
  const statements = variables.map((variable, hop) =>
    hop === 0 ? fill(t.first, { variable, value: slots.value }) : fill(t.next, { variable, source: variables[hop - 1] ?? '' }),
  );
  const way = variables.slice(0, -1).reverse();
  const answers = [...way.map((variable) => fill(t.hop, { variable })), fill(t.expected, slots)].map((text) => ({ lead: '', text }));
  return { statements, question: fill(t.question + t.answer, slots), answers };
}
