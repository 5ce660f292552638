import { format, resolveConfig } from 'prettier';

import { without, type NativeForm, type Option } from '../../../src/core/options.ts';
import * as tables from '../../../src/core/option-tables.ts';
import * as gatesTables from '../../../src/gates/option-tables.ts';

// Writes what follows from the tables of options. option-files.test.ts compares it with the files; `npm run generate` brings them up to date.

type Options = Readonly<Record<string, Option>>;

/** A type to write: the table's own keys, and the types that it is made of beside them. */
type Concept = {
  name: string;
  doc: string;
  table: Options;
  but?: Options;
  and?: string;
  required?: readonly string[];
  /** Where its type is more than a table says: it is written by hand. */
  byHand?: boolean;
};

const concepts: readonly Concept[] = [
  { name: 'WeightOptions', doc: "Where a model's weights go, and how they are read.", table: tables.modelTable },
  { name: 'FetchOptions', doc: 'How a model is had from elsewhere.', table: tables.fetchTable },
  {
    name: 'ModelOptions',
    doc: 'How a model is loaded.',
    table: tables.loadModelTable,
    but: { ...tables.modelTable, ...without(tables.fetchTable, 'onProgress') },
    and: "WeightOptions & Omit<FetchOptions, 'onProgress'>",
  },
  { name: 'TokenizeOptions', doc: 'How a text becomes tokens.', table: tables.tokenizeTable },
  { name: 'DetokenizeOptions', doc: 'How tokens become a text.', table: tables.detokenizeTable },
  {
    name: 'HeadChoice',
    doc: 'How the heads that stream are chosen: by one of these, never both.',
    table: tables.headChoiceTable,
    byHand: true,
  },
  {
    name: 'DuoOptions',
    doc: 'Mixed heads: which KV heads keep the whole cache, and what the others, which stream, see.',
    table: tables.duoTable,
    but: tables.headChoiceTable,
    and: 'HeadChoice',
  },
  { name: 'SpeculativeOptions', doc: 'How tokens are drafted, for the model to verify several at once.', table: tables.speculativeTable },
  { name: 'PlanOptions', doc: "A context's sizes, as for planning.", table: tables.planTable },
  { name: 'ContextOptions', doc: 'A context to create.', table: tables.contextTable, but: tables.planTable, and: 'PlanOptions' },
  { name: 'SamplingOptions', doc: 'How the next token is chosen.', table: tables.samplingTable },
  {
    name: 'GenerateOptions',
    doc: 'What is generated, and how it is read.',
    table: tables.generateTable,
    but: tables.samplingTable,
    and: 'SamplingOptions',
  },
  {
    name: 'InfillOptions',
    doc: 'What is generated into a gap.',
    table: tables.infillTable,
    but: tables.infillTable,
    and: "Omit<GenerateOptions, 'addSpecial' | 'parseSpecial'>",
  },
  { name: 'ScoreOptions', doc: 'What is scored.', table: tables.scoreTable },
  { name: 'AppendOptions', doc: 'What a sequence appends.', table: tables.appendTable },
  { name: 'ChatTemplateOptions', doc: 'What a chat template gets.', table: tables.chatTemplateTable },
  {
    name: 'ChatPromptOptions',
    doc: 'A prompt to make of messages.',
    table: tables.chatPromptTable,
    but: tables.chatTemplateTable,
    and: 'ChatTemplateOptions',
  },
  { name: 'ChatOptions', doc: 'A conversation.', table: tables.chatTable, but: tables.chatTemplateTable, and: 'ChatTemplateOptions' },
  {
    name: 'SendOptions',
    doc: 'How an answer is generated, and how it is read.',
    table: tables.sendTable,
    but: without(tables.sendTable, 'toolChoice'),
    and: "Omit<GenerateOptions, 'addSpecial' | 'parseSpecial' | 'n' | 'ignoreEos' | 'specialTokens' | 'logProbabilities'>",
  },
  { name: 'EmbedderOptions', doc: 'An embedder to create.', table: tables.embedderTable },
];

const gatesConcepts: readonly Concept[] = [
  { name: 'CalibrateOptions', doc: 'How gates are found.', table: gatesTables.calibrateTable },
  { name: 'ReadGatesOptions', doc: 'How a pattern is read.', table: gatesTables.readGatesTable },
  { name: 'EmbedOptions', doc: 'How a pattern is put into a copy of a model.', table: gatesTables.embedTable },
];

function defaultOf({ default: value, otherwise }: Option): string | undefined {
  if (otherwise !== undefined) return otherwise;
  return value === undefined ? undefined : typeof value === 'string' ? `'${value}'` : JSON.stringify(value);
}

function ownOptions({ table, but = {} }: Concept): [string, Option][] {
  return Object.entries(table).filter(([key]) => !Object.hasOwn(but, key));
}

function rangeOf({ min, max }: Option): string {
  return min === undefined || max === undefined || max === 2 ** 31 - 1 ? '' : ` ${min} to ${max}.`;
}

function typeOf(concept: Concept): string {
  const members = ownOptions(concept).map(([key, option]) => {
    const otherwise = defaultOf(option);
    const lines = wrap(`${option.doc}${rangeOf(option)}${otherwise === undefined ? '' : ` Default: ${otherwise}.`}`, 150);
    const comment = lines.length === 1 ? `/** ${lines.join('')} */` : `/**\n${lines.map((line) => `   * ${line}`).join('\n')}\n   */`;
    const required = concept.required?.includes(key) ?? false;
    return `  ${comment}\n  ${key}${required ? '' : '?'}: ${option.type.includes('=>') ? `(${option.type})` : option.type}${required ? '' : ' | undefined'};`;
  });
  const own = members.length > 0 ? [`{\n${members.join('\n')}\n}`] : [];
  return `/** ${concept.doc} */\nexport type ${concept.name} = ${[...(concept.and ? [concept.and] : []), ...own].join(' & ')};`;
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + word.length < width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

async function formatted(text: string, file: string): Promise<string> {
  return format(text, { ...(await resolveConfig(file)), filepath: file });
}

function typesFile(file: string, imports: string, of: readonly Concept[]): Promise<string> {
  const head = '// Written by `npm run generate` from option-tables.ts.\n\n';
  return formatted(
    `${head}${imports}\n\n${of
      .filter(({ byHand }) => !byHand)
      .map(typeOf)
      .join('\n\n')}`,
    file,
  );
}

/** src/core/option-types.ts. */
export function coreTypesFile(file: string): Promise<string> {
  const imports = [
    "import type { CacheType } from './cache-types.ts';",
    "import type { Gates, HeadChoice } from './duo.ts';",
    "import type { Lora, ScaledLora } from './lora.ts';",
    "import type { Message } from './message.ts';",
    "import type { CoreModel } from './model.ts';",
    "import type { LogitBias, Sampler } from './sampling.ts';",
    "import type { Schema } from './schema.ts';",
    "import type { Tool } from './tool.ts';",
  ].join('\n');
  return typesFile(file, imports, concepts);
}

/** src/gates/option-types.ts. */
export function gatesTypesFile(file: string): Promise<string> {
  const imports =
    "import type { CacheType } from '../core/cache-types.ts';\nimport type { CalibrationMethod } from './calibration-methods.ts';\nimport type { SampleKind } from './sample-kinds.ts';";
  return typesFile(file, imports, gatesConcepts);
}

/** docs/options.md. */
export function referenceFile(file: string): Promise<string> {
  const cell = (text: string): string => text.replaceAll('|', '\\|');
  const sections = [...concepts, ...gatesConcepts].map((concept) => {
    const rows = ownOptions(concept).map(([key, option]) => {
      const flags = option.flags?.map((flag) => `\`${flag}\``).join(', ') ?? '';
      return `| \`${key}\` | \`${cell(option.type)}\` | ${cell(defaultOf(option) ?? '')} | ${flags} | ${cell(option.doc + rangeOf(option))} |`;
    });
    const more = concept.and ? ` Besides all of \`${concept.and}\`.` : '';
    if (rows.length === 0) return `## ${concept.name}\n\n${concept.doc}${more}`;
    return `## ${concept.name}\n\n${concept.doc}${more}\n\n| option | type | default | flag | meaning |\n| --- | --- | --- | --- | --- |\n${rows.join('\n')}`;
  });
  const head =
    '# Options\n\n<!-- Written by `npm run generate` from src/core/option-tables.ts and src/gates/option-tables.ts. -->\n\n' +
    'What every function of the API takes, and the flag of the command line that says the same. An option that is `undefined` counts as left out. A name that is not ' +
    'known is an `OptionError` that suggests the nearest one.\n\n';
  return formatted(head + sections.join('\n\n'), file);
}

/** cpp/test/options.json: what the library's readers have to take and to refuse. */
export function nativeFile(file: string): Promise<string> {
  const native: Record<string, Options> = {
    model: tables.modelTable,
    embedder: tables.embedderTable,
    chat: tables.chatTemplateTable,
    context: tables.planTable,
    duo: tables.duoTable,
    speculative: tables.speculativeTable,
    generate: tables.generateTable,
    score: tables.scoreTable,
    select: tables.headChoiceTable,
    calibrate: gatesTables.calibrateTable,
  };
  const forms = Object.entries(native).map(([concept, table]) => [
    concept,
    Object.fromEntries(
      Object.entries(table).flatMap(
        ([key, { form, expected, default: value, native: name = key }]): [string, NativeForm & { expected?: string }][] => {
          if (name === null) return [];
          const own = ['any', 'strings'].includes(form.type) || 'default' in form || (form.type === 'object' && expected !== 'an object');
          return [[name, { ...form, ...(!own && { expected }), ...(!own && value !== undefined && { default: value }) }]];
        },
      ),
    ),
  ]);
  return formatted(JSON.stringify(Object.fromEntries(forms)), file);
}
