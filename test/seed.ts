import fc from 'fast-check';

// The seed of this run, where one is given: the same properties are tried with the same inputs again.
const given = process.env['LLAMA_DUO_TEST_SEED'];
if (given !== undefined) fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(given) % 2 ** 31 });
