// The C ABI that src/ffi binds: flat functions over numbers and byte buffers, the same for koffi, bun:ffi and Deno.dlopen.
//
// Rules
// - Types: int32_t, uint32_t, double and pointers to buffers. No struct, bool, size_t, 64-bit integer, char * result or function pointer.
// - Every function but llama_duo_abi_version returns a status: 0, or a negative LLAMA_DUO_E_*. No C++ exception leaves the library.
// - Handles are numbers (slot and generation): a stale one is LLAMA_DUO_E_HANDLE, never a crash. 0 is never a handle.
// - Text goes in as (pointer, bytes), UTF-8, no NUL needed. Text comes out into (buffer, capacity); *needed gets the bytes of the whole text,
//   and if they exceed the capacity nothing is written and the status is LLAMA_DUO_E_SPACE. The buffer may be NULL with capacity 0.
// - Whatever can take long is a job: submit returns at once, the library's own threads work, and the caller polls. Nothing calls back.
// - Options are one JSON object (at least "{}"; nested 64 deep at most), checked here: an unknown key, a wrong type (null is one for every key) or a value out of range fails the job
//   with a message that names the key, the value and what was expected.
// - Nothing is ever printed: what llama.cpp has to say is in the log.
// - A submit copies its input and a drain copies its output: no caller's buffer is used after the call returns.
// - Calls may come from any thread.
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#    define LLAMA_DUO_API __declspec(dllexport)
#else
#    define LLAMA_DUO_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define LLAMA_DUO_ABI_VERSION 3

enum llama_duo_status {
    LLAMA_DUO_OK         =  0,
    LLAMA_DUO_E_ARGUMENT = -1,  // a null pointer, a negative size, a value out of range
    LLAMA_DUO_E_HANDLE   = -2,  // not a live handle of the expected kind
    LLAMA_DUO_E_SPACE    = -3,  // the buffer is too small; *needed says how large it must be
    LLAMA_DUO_E_STATE    = -4,  // not now: the job has not ended, or ended otherwise
    LLAMA_DUO_E_INTERNAL = -5,  // an exception that should not have happened
    LLAMA_DUO_E_LIMIT    = -6,  // 16,384 handles are live: free some first
};

enum llama_duo_job_state {
    LLAMA_DUO_JOB_QUEUED    = 0,
    LLAMA_DUO_JOB_RUNNING   = 1,
    LLAMA_DUO_JOB_DONE      = 2,
    LLAMA_DUO_JOB_FAILED    = 3,  // llama_duo_job_error says why
    LLAMA_DUO_JOB_CANCELLED = 4,
};

// The version of this header that the library was built from. A caller refuses another.
LLAMA_DUO_API int32_t llama_duo_abi_version(void);

// "VERSION PATCHED_TREE": llama-duo's version, and the git tree of the llama.cpp that it is linked with. Unlike build_info it starts no backend, so that a
// caller can refuse a library of another build before that does anything.
LLAMA_DUO_API int32_t llama_duo_build_id(void * buf, int32_t cap, int32_t * needed);

// JSON: { "abi", "version", "llamaCpp": { "tag", "tree", "patchedTree" }, "compiler", "simd": [...], "backends": [...] }
LLAMA_DUO_API int32_t llama_duo_build_info(void * buf, int32_t cap, int32_t * needed);

// Takes the oldest log lines that fit, whole lines, oldest first, each "level\tmessage\n" with level one of debug, info, warn, error. *needed gets
// the bytes written (0: nothing there), or those of the oldest line with LLAMA_DUO_E_SPACE where not even it fits. At most 64 KiB are kept; the
// oldest lines are dropped first.
LLAMA_DUO_API int32_t llama_duo_log_drain(void * buf, int32_t cap, int32_t * needed);

// --- jobs ---

// *state gets a llama_duo_job_state, *progress a number from 0 to 1 (loading, prefill, calibration, embedding gates), or -1 where there is none.
LLAMA_DUO_API int32_t llama_duo_job_poll(uint32_t job, int32_t * state, double * progress);

// The result's JSON once the job is done; each submit below says what it holds.
LLAMA_DUO_API int32_t llama_duo_job_result(uint32_t job, void * buf, int32_t cap, int32_t * needed);

// Numbers that belong to the result, as bytes in the machine's order, once the job is done; a submit that makes any says so. *needed counts bytes.
LLAMA_DUO_API int32_t llama_duo_job_data(uint32_t job, void * buf, int32_t cap, int32_t * needed);

// { "code", "message" } once the job has failed. code is one of: option (bad option), gates (bad gate pattern), model (cannot be loaded),
// unsupported (mixed heads cannot apply, tokens cannot be drafted, or the cache cannot do this), context (cannot be created, or is of another kind), memory (a context does not fit; with
// "device", "neededBytes", "freeBytes" and "largestContextSize", 0 where none fits), download (a model cannot be loaded from elsewhere), full (the tokens do not fit),
// grammar (it allows no token of the vocabulary), decode, state (a sequence is not, or cannot become, what is asked for; a saved state is of
// something else or cannot be read), template (a chat's template refuses), output (a file cannot be read or written), limit (no handle is left for what was made), internal (what
// should not have happened). code "option" adds "name" (the key, "duo.sink" for one within another, "prompt" or "text" for what is no option, "" where the options
// are no JSON object), "value" and "expected"; code "grammar" adds "text", all that was generated; code "state" adds "resumableFrom" where it is how far back a
// sequence goes that was in the way; code "gates" of a pattern for another model adds "patternShape" and "modelShape", [KV heads of each layer].
LLAMA_DUO_API int32_t llama_duo_job_error(uint32_t job, void * buf, int32_t cap, int32_t * needed);

// Asks the job to stop; it ends as cancelled unless it had ended already. Returns at once.
LLAMA_DUO_API int32_t llama_duo_job_cancel(uint32_t job);

// Cancels the job if it runs and gives its handle back. Models and contexts that a job made live on.
LLAMA_DUO_API int32_t llama_duo_job_free(uint32_t job);

// --- models ---

// The devices that a model can be on. Options: {}
// Result: { "devices": [{ "name", "description", "type": "cpu" | "gpu", "totalBytes", "freeBytes" }] }
LLAMA_DUO_API int32_t llama_duo_devices(const void * json, int32_t len, uint32_t * job);

// Loads a model's file, or all files of a split one, with llama.cpp's downloader into its cache (LLAMA_CACHE or HF_HOME say where), unless they are there. What
// a cancelled or broken download has got is kept, and the next one goes on from there.
// Options: { "model": "hf:user/repository" | "hf:user/repository:quantisation" | http or https URL, "file"?: string (of the repository, instead of a
//   quantisation), "token"?: string (for a repository that is not public), "offline"?: boolean (false; true: only what the cache has) }
// Result: { "path" (of the first file), "fetched": boolean (whether anything came over the network) }; the job's progress is that of the bytes
LLAMA_DUO_API int32_t llama_duo_model_fetch(const void * json, int32_t len, uint32_t * job);

// Options: { "path": string, "gpuLayers"?: integer >= -1 (-1: all), "useMmap"?: boolean, "useMlock"?: boolean (false; true: the weights are kept in
//   memory), "checkTensors"?: boolean (false; true: values of weights that are no numbers are refused), "vocabOnly"?: boolean, "weights"?: boolean (true; false: the
//   model can tell what it is, tokenize and be planned with, and takes no memory for weights), "devices"?: [name] (all; empty: the CPU alone),
//   "splitMode"?: "none" | "layer" | "row" | "tensor" (layer), "mainGpu"?: integer (0: the device of a model that is not split), "tensorSplit"?: [number]
//   (shares of the devices), "overrides"?: { key: boolean | number | string } (metadata instead of the file's) }
// Result: { "model": handle, "description", "architecture", "path", "sizeBytes", "parameters", "layers", "embeddingSize", "contextSize" (trained),
//   "vocabularySize", "heads": [per layer], "kvHeads": [per layer], "gatedHeads": [per layer] (KV heads that have gates), "headSizeK", "headSizeV", "bosToken",
//   "eosToken" (or null), "endTokens": [all that end a text], "infillTokens": { "prefix", "suffix", "middle", "padding", "repository", "file" } (each or null),
//   "addBos": boolean,
//   "chatTemplate": string | null, "metadata": { key: value } }
LLAMA_DUO_API int32_t llama_duo_model_load(const void * json, int32_t len, uint32_t * job);

// Gives the model back at once and is done when its memory is free, or at once where a context or a job still uses it: then its memory is free once
// they are. Freeing is safe in any order. Result: {}
LLAMA_DUO_API int32_t llama_duo_model_free(uint32_t model, uint32_t * job);

// Here and for llama_duo_tokenize_long, llama_duo_detokenize and llama_duo_chat_apply the model may be a context's handle, which lives on when the model is given back.
//
// Token ids of a text. flags: 1 add special tokens as the model wants them, 2 parse special tokens in the text. *needed counts tokens.
// LLAMA_DUO_E_STATE: the model has no vocabulary.
LLAMA_DUO_API int32_t llama_duo_tokenize(
        uint32_t model, const void * text, int32_t len, int32_t flags, int32_t * tokens, int32_t cap, int32_t * needed);

// As llama_duo_tokenize, for a text that takes long. Result: { "tokens": how many }; data: the ids, int32_t
LLAMA_DUO_API int32_t llama_duo_tokenize_long(uint32_t model, const void * text, int32_t len, int32_t flags, uint32_t * job);

// The bytes of tokens; they may end within a UTF-8 sequence. flags: 1 leave special tokens out, 2 render special tokens as text.
// LLAMA_DUO_E_STATE: the model has no vocabulary. LLAMA_DUO_E_ARGUMENT: an id is not in it.
LLAMA_DUO_API int32_t llama_duo_detokenize(
        uint32_t model, const int32_t * tokens, int32_t n_tokens, int32_t flags, void * buf, int32_t cap, int32_t * needed);

// Options: { "path": a LoRA adapter's GGUF file }
// Result: { "lora": handle (for a context's "loras"), "alpha", "tensors": how many it adapts, "metadata": { key: value } }. Error code "model": it
//   cannot be loaded.
LLAMA_DUO_API int32_t llama_duo_lora_load(uint32_t model, const void * json, int32_t len, uint32_t * job);

// Gives the adapter back. Its memory is free once no context uses it.
LLAMA_DUO_API int32_t llama_duo_lora_free(uint32_t lora);

// --- gate patterns ---

// Options: { "path": string } or { "text": string, "source"?: string }
// Result: the pattern as its JSON: { "llamaDuoPattern": 1 or 2, "layers", "kvHeads", "sink"?, "recent"?, "gates": [[...]], "windows"?: [[...]],
//   "sinks"?: [per layer], "losses"?: { "windows": [...], "heads": [[[...]]] }, "provenance"? }
LLAMA_DUO_API int32_t llama_duo_gates_read(const void * json, int32_t len, uint32_t * job);

// Options: { "pattern": the pattern's JSON object, "sparsity"?: number, "threshold"?: number, "kvHeads"?: [per layer] (default: the pattern's) }
// Result: { "streaming": [[0 | 1, ...], ...], "retrievalHeads", "streamingHeads" }
LLAMA_DUO_API int32_t llama_duo_gates_select(const void * json, int32_t len, uint32_t * job);

// Copies a model with the pattern in its metadata, where "auto" finds it.
// Options: { "pattern": the pattern's JSON object, "model": path, "target": path of the copy }
// Result: { "target" }
LLAMA_DUO_API int32_t llama_duo_gates_embed(const void * json, int32_t len, uint32_t * job);

// Finds out how much each KV head needs its whole cache, with forward passes only: a context is read once for each sample, then its questions and
// answers again and again with other heads restricted to sinks and recent keys.
// Options: { "samples": [{ "tokens": [token], "context": integer (tokens before the questions), "answers": [[first, end], ...] }], "method"?: "windows" | "combined" |
//   "typical" | "ablation" | "greedy" | "masks" | "bosch" | "mass" | "kvzip" | "mean-qk", "sink"?, "recent"? (all methods but windows), "windows"?: [integer] (method windows: recent keys, rising; 256 and 1,024), "cacheTypes"?: [type] (method
//   windows: beside f16; q8_0 and q4_0), "strict"?: boolean (read the contexts under the restriction, too),
//   "masks"?: integer (methods masks and bosch: how many), "seed"?: 0 to 4294967295 (of these methods), "threads"?, "partial"?: path (measurements are kept there, and a
//   later job with the same options goes on from them, several at once, too; a file of other options or of anything else is refused), "modelId"?: string
//   (tells models apart there) }
// Result: { "pattern": the pattern's JSON (gates are the ranks of scores, from 0 to 1), "scores": [[...]], "correct": number | null (share of the
//   answers' tokens that are the likeliest with every head seeing everything), "contextTokens", "tailTokens", "answerTokens", "passes" }
LLAMA_DUO_API int32_t llama_duo_calibrate(uint32_t model, const void * json, int32_t len, uint32_t * job);

// --- contexts ---

// Options: { "contextSize"?: integer >= 0 | "auto" | "fit" (all sequences together; 0, the default: as trained; "auto": as trained or 8,192 for each sequence,
//     whichever is less, or as much as leaves half of the free memory; "fit": as trained for each sequence, or as much as leaves a tenth of the free
//     memory; it is rounded up to 256 before batches are cut to it),
//   "sequences"?: integer >= 1, "batchSize"?: integer >= sequences, "ubatchSize"?, "threads"?, "threadsBatch"?, "typeK"?, "typeV"?: "f32" | "f16" |
//   "bf16" | "q8_0" | ..., "flashAttention"?: "auto" | "on" | "off", "duo"?: { "gates"?: "auto" | path | pattern object, "sparsity"?, "threshold"?,
//   "budget"?: number (up to 1 a share of the bytes of a full f16 cache, above it bytes: the pattern's losses decide on heads, windows and, where both are f16, on
//   types; with "recent", or where there are none, the heads with the lowest gates stream, no more of them than have to; no sparsity or threshold beside it), "sink"?, "recent"?, "chunk"? }, "loras"?: [{ "lora": handle, "scale"?: number (1) }] (adapters of this model), "speculative"?: SPECULATIVE }
// SPECULATIVE: the same is generated, faster where drafts are often right and several tokens take little longer than one: tokens that may come next are
//   drafted, and all of a draft are computed together.
//   { "draft"?: handle of a small model with the same vocabulary (another is refused with code "unsupported", which says in what it differs), "lookup"?:
//   boolean (false; true: what followed in the text where its last tokens stood before; at least one of the two is wanted, and the draft model is asked
//   where nothing was found), "maxTokens"?: integer from 1 to 1024 (of a draft; 3 of the draft model's, 48 of those that were looked up),
//   "minProbability"?: 0 to 1 (0; the draft model's drafts end before a token that is less likely to it), "ngramSize"?: integer from 1 to 1024 (12; how many
//   tokens are looked up), "typeK"?, "typeV"? (f16), "threads"?, "threadsBatch"? (the context's; all four of the draft model's context, which holds as many
//   tokens of as many sequences as this one, and no mixed heads) }
//   Tokens that are computed together are summed in another order, which may decide between two that are as good as equally likely. A draft that was wrong
//   is taken back from the cache, so a sequence's "resumableFrom" may be up to "maxTokens" larger than without. Beside recurrent layers each token of
//   "maxTokens" takes as much memory as their states, and it is at most 2 less than the ubatch, and 254; where llama.cpp keeps no such states, or the draft model has
//   recurrent layers, the error's code is "unsupported".
// Result: { "context": handle, "contextSize", "sequences", "contextPerSequence", "batchSize", "ubatchSize", "threads", "threadsBatch",
//   "typeK", "typeV", "kv": KV, "draftKv": KV | null (of the draft model's context), "devices": [DEVICE] (with what that takes), "warnings": WARNINGS }
// DEVICE: { "name", "description", "type": "cpu" | "gpu", "totalBytes", "freeBytes", "weightsBytes", "contextBytes", "computeBytes" }
// KV: { "retrievalBytes", "streamingBytes", "windowedBytes", "recurrentBytes" (of states: not in the sums), "totalBytes", "fullBytes", "typeK", "typeV", "finerK": { "type", "layers": [integer] } | null (layers whose K rows are of a finer type than typeK), "expectedLoss": number | null (of a budget's choice, in the unit of
//   the pattern's losses), "retrievalHeads", "streamingHeads", "retrievalCells",
//   "streamingCells", "windowedHeads", "windowedCells" (of layers with the model's own sliding windows),
//   "sequences", "sink", "recent", "chunk" }
// WARNINGS: [{ "code": "beyond-training" (the context is larger than what the model was trained for), "message" }]
LLAMA_DUO_API int32_t llama_duo_context_create(uint32_t model, const void * json, int32_t len, uint32_t * job);

// What llama_duo_context_create would make, without making it. Same options.
// Result: { "supported": boolean, "reason": string | null, "kv": KV | null, "draftKv", "warnings": WARNINGS }. Where llama.cpp's own cache is asked for and it is not
//   the standard one, the model's file is read again, without its weights.
LLAMA_DUO_API int32_t llama_duo_context_plan(uint32_t model, const void * json, int32_t len, uint32_t * job);

// What llama_duo_context_create would take of each device, found without taking it. Same options. The model's file is read again, without its weights.
// Result: { "supported", "reason", "contextSize", "kv", "draftKv", "weightsBytes", "contextBytes", "computeBytes", "devices": [DEVICE], "fits": boolean
//   (whether each device has it free now), "largestContextSize": integer (contextSize, or the largest below it that fits; 0: none does) | null, "warnings" }.
//   Of a context whose cells alone would take much of the host's memory "kv" is null, "devices" empty and "fits" false.
LLAMA_DUO_API int32_t llama_duo_context_estimate(uint32_t model, const void * json, int32_t len, uint32_t * job);

// Gives the context back at once, ends its jobs, and is done when its memory is free. Result: {}
LLAMA_DUO_API int32_t llama_duo_context_free(uint32_t context, uint32_t * job);

// Generates from a prompt. Jobs of a context run together: each has a sequence of the context to itself until it ends, and where all are taken
// further jobs wait in the order of their submits. A job gets, of the sequences that are free, the one that holds most of its prompt's beginning,
// which is reused where the cache can go on from there exactly; else the one that was used longest ago. A step of the context computes the next
// token of every sequence that generates, with a draft of what may follow it, if drafts are wanted, and pieces of prompts, a ubatch of them at most.
// The prompt: n_tokens ids, or, where n_tokens is -1, n_bytes of text, which the library's threads tokenize. A text that cannot fit, whatever its
// tokens are, is refused before that.
// Options: { "addSpecial"?: boolean (true), "parseSpecial"?: boolean (false; both as llama_duo_tokenize's flags, of a prompt that is text),
//   "maxTokens"?: integer >= -1 (-1: until the sequence is full), "stop"?: [string] (generation ends before the text that matches),
//   "specialTokens"?: boolean (false; render special tokens in text), "reuse"?: boolean (true), "window"?: integer >= 1 (256; tokens that may wait
//   undrained before the job pauses. It keeps its sequence then, and the others go on. It does not pause while a job waits for a sequence: what the
//   reader does not take is kept), "n"?: integer from 1 to the context's sequences (1; texts to generate: the prompt is computed once, and each has
//   a sequence of its own), "logProbs"?: integer >= 0 (none; how many alternatives to give with each token's log-probability, see
//   llama_duo_job_drain_log_probs), SAMPLING }
// SAMPLING: all that llama.cpp samples with, by its defaults: { "temperature"?: >= 0 (0.8; 0: greedy), "topK"?: >= 0 (40; 0: all), "topP"?: 0 to 1 (0.95),
//   "minP"?: 0 to 1 (0.05), "typicalP"?: 0 to 1 (1), "topNSigma"?: >= -1 (-1: off), "xtcProbability"?: 0 to 1 (0), "xtcThreshold"?: 0 to 1 (0.1),
//   "minKeep"?: >= 0 (0), "dynamicTemperatureRange"?: >= 0 (0), "dynamicTemperatureExponent"?: >= 0 (1), "repeatPenalty"?: 0.001 to 1000 (1),
//   "repeatLastN"?: >= -1 (64; -1: the sequence's size), "frequencyPenalty"? (0), "presencePenalty"? (0), "dryMultiplier"?: >= 0 (0: off),
//   "dryBase"?: >= 0 (1.75), "dryAllowedLength"?: >= 0 (2), "dryLastN"?: >= -1 (64), "drySequenceBreakers"?: [string] (newline, colon, quote,
//   asterisk), "mirostat"?: 0 | 1 | 2 (0: off; else it takes the place of the samplers), "mirostatTau"?: >= 0 (5), "mirostatEta"?: >= 0 (0.1),
//   "adaptiveTarget"?: -1 to 1 (-1), "adaptiveDecay"?: 0 to 0.99 (0.9), "samplers"?: [name], which of them, in which order (penalties, dry,
//   top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature; there are infill and adaptive_p, too), "seed"?: 0 to 4294967295 (4294967295: another
//   each time; of n texts the i'th has seed + i), "logitBias"?: [[token id or text, number | false]] (added to the logit, of each token of a text;
//   false: never), "ignoreEos"?: boolean (false), "grammar"?: GBNF, or "jsonSchema"?: object (the text is JSON that the schema describes), or
//   "chat"?: the "sampling" of llama_duo_chat_apply's result }
// Result: { "stop": "length" | "eos" | "text" | "full", "stopText": string | null, "promptTokens", "reusedTokens", "generatedTokens",
//   "draftedTokens", "acceptedTokens" (drafted ones that were right; 0 without "speculative"), "queuedSeconds" (until it got its sequence),
//   "prefillSeconds", "decodeSeconds", "prefillTokensPerSecond", "decodeTokensPerSecond" (a rate without tokens is 0), "choices": [{ "stop", "stopText",
//   "generatedTokens", "draftedTokens", "acceptedTokens", "decodeSeconds", "decodeTokensPerSecond" }] (of each text; what stands outside is the first's) }
//   The token that ends a generation ("eos") is neither counted nor drained. A grammar whose text is complete ends
//   it so as well, with ignoreEos too. One that allows no token before that fails the job with code "grammar". decodeSeconds leaves out waiting for
//   the reader.
LLAMA_DUO_API int32_t llama_duo_generate(uint32_t context, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes,
        const void * json, int32_t len, uint32_t * job);

// Takes tokens that wait, and their text: whole UTF-8 sequences, so text may lag behind its tokens but never runs ahead; when the job has
// ended the last drain gives the rest. info[0] tokens written, info[1] bytes of text written, info[2] the job's state, info[3] 1 if more waits;
// info has room for 4. Draining lets a paused engine go on. Both buffers must hold at least 16 tokens and 4096 bytes.
LLAMA_DUO_API int32_t llama_duo_job_drain(
        uint32_t job, int32_t * tokens, int32_t cap, void * text, int32_t text_cap, int32_t * info);

// The same of one of a generation's n texts, from 0 on; llama_duo_job_drain is that of the first.
LLAMA_DUO_API int32_t llama_duo_job_drain_choice(
        uint32_t job, int32_t choice, int32_t * tokens, int32_t cap, void * text, int32_t text_cap, int32_t * info);

// Where the option "logProbs" is k: a record of 1 + 2 * min(k, vocabulary) numbers for each token that was drained, in their order: the natural
// logarithm of the token's probability, then the k likeliest tokens, each as its id and the logarithm of its probability; by the model's logits,
// before any sampler changes them. Takes as many whole records as fit; *needed gets the numbers written (0: nothing there). LLAMA_DUO_E_SPACE: there
// is one, and not even it fits.
LLAMA_DUO_API int32_t llama_duo_job_drain_log_probs(uint32_t job, int32_t choice, double * numbers, int32_t cap, int32_t * needed);

// The logarithms of the probabilities of given tokens, each after those before it. It takes a sequence as llama_duo_generate does, and what that
// holds of the tokens before the first scored one is reused. Ids or text as for llama_duo_generate: at least 2 tokens, at most one more than a
// sequence holds.
// Options: { "addSpecial"?, "parseSpecial"?, "from"?: integer from 1 to the number of tokens - 1 (the first token to score; 1) }
// Result: { "reusedTokens", "seconds" }; data: natural logarithms of the tokens from `from` on, double
LLAMA_DUO_API int32_t llama_duo_score(uint32_t context, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes,
        const void * json, int32_t len, uint32_t * job);

// --- sequences ---
//
// A sequence of a context that its owner keeps: nothing else runs on it. Its jobs run one after the other, in the order of their submits, and beside all
// others of the context. The result of each has { "length": tokens it holds, "resumableFrom": the shortest length, beside 0, that it can be
// truncated to } and what is said below. A job that fails or is cancelled leaves what was computed of what it appended. Once the context is freed
// each call is LLAMA_DUO_E_HANDLE, but for llama_duo_sequence_free and _size.

// An empty sequence, once one is free. Result: { "sequence": handle, "length", "resumableFrom" }
LLAMA_DUO_API int32_t llama_duo_sequence_create(uint32_t context, uint32_t * job);

// Gives it back and cancels its jobs. What it holds may still be reused by others.
LLAMA_DUO_API int32_t llama_duo_sequence_free(uint32_t sequence);

// "length" and "resumableFrom" as of the last job that has ended.
LLAMA_DUO_API int32_t llama_duo_sequence_size(uint32_t sequence, int32_t * length, int32_t * resumable_from);

// A copy, once a sequence is free. Result: { "sequence": the copy's handle, "length", "resumableFrom" }
LLAMA_DUO_API int32_t llama_duo_sequence_fork(uint32_t sequence, uint32_t * job);

// Appends at least one token, as ids or text as for llama_duo_generate, but "addSpecial" is false where it is not given. The last token is computed
// only with what is done next, or never. Options: { "addSpecial"?, "parseSpecial"? }. Result: also { "appendedTokens" }. Error code "full": it
// cannot hold them.
LLAMA_DUO_API int32_t llama_duo_sequence_append(uint32_t sequence, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes,
        const void * json, int32_t len, uint32_t * job);

// Leaves the first tokens. Exact, or refused with code "state" and the error's "resumableFrom": a cache with streaming heads goes back only so far,
// one with recurrent layers not at all. 0 can always be had.
LLAMA_DUO_API int32_t llama_duo_sequence_truncate(uint32_t sequence, int32_t length, uint32_t * job);

// What the model expects after the last token. data: a logit for each token of the vocabulary, float. Error code "state": the sequence is empty, or
// that token was computed for something else and the cache cannot go back by one.
LLAMA_DUO_API int32_t llama_duo_sequence_logits(uint32_t sequence, uint32_t * job);

// As llama_duo_generate, after what the sequence holds; the prompt may be empty where it holds something, and "addSpecial" is false where it is not
// given. The sequence then holds the prompt and what was generated, but a token for which there was no room. Of n texts the first is the sequence's,
// the others need free ones.
LLAMA_DUO_API int32_t llama_duo_sequence_generate(uint32_t sequence, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes,
        const void * json, int32_t len, uint32_t * job);

// Appends tokens and tells how likely they were, each after all before it. Options as for llama_duo_sequence_append. Result: also { "reusedTokens",
// "seconds" }; data: natural logarithms of the given tokens' probabilities, double; where the sequence was empty the first token has none.
LLAMA_DUO_API int32_t llama_duo_sequence_score(uint32_t sequence, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes,
        const void * json, int32_t len, uint32_t * job);

// What a sequence holds, in a form that says of which model, which adapters, which heads, which cache types and which version it is.
// Options: { "path"?: file to write, beside its place first; without it the state is the job's data, of at most 2 GiB }. Result: also { "bytes" }
// Nothing else of the context is computed meanwhile.
LLAMA_DUO_API int32_t llama_duo_sequence_save(uint32_t sequence, const void * json, int32_t len, uint32_t * job);

// Makes the sequence hold what was saved, n_bytes of it or, with the option "path", a file. A state of another model or other adapters, of other
// heads, cache types or version, that is cut off or damaged is refused by name with code "state", and the sequence is as before. Models that differ
// in nothing but the values of their matrices are not told apart. A context of another size and another number of sequences may take it, where it fits (of
// llama.cpp's caches only the standard one: others must have as many sequences). Options: { "path"?: file to read }. Result: also { "bytes" }
LLAMA_DUO_API int32_t llama_duo_sequence_load(uint32_t sequence, const void * bytes, int32_t n_bytes, const void * json, int32_t len, uint32_t * job);

// --- embeddings ---

// What makes embeddings of texts, or ranks documents: a context of its own, of any model with weights but one of an encoder and a decoder. Its jobs
// take turns.
// Options: { "pooling"?: "model" (as it says, else mean) | "mean" | "cls" | "last" | "rank", "contextSize"?: integer from 1 to what the model was
//   trained for (that, but at most 2048: tokens of a text, and of all that are computed at once), "sequences"?: integer >= 1 (16; texts that are
//   computed at once), "threads"? }
// Result: { "embedder": handle, "size": numbers of an embedding, "pooling", "contextSize", "sequences" }
LLAMA_DUO_API int32_t llama_duo_embedder_create(uint32_t model, const void * json, int32_t len, uint32_t * job);

// Gives it back; done when its memory is free, or at once where a job still uses it. Result: {}
LLAMA_DUO_API int32_t llama_duo_embedder_free(uint32_t embedder, uint32_t * job);

// Options: { "texts": [text or array of ids], "normalize"?: boolean (true; to length 1) }. Texts get the special tokens that the model wants, and
//   theirs are text.
// Result: { "size", "texts", "tokens" }; data: the texts' embeddings one after the other, float. Error code "full": a text is longer than "contextSize".
LLAMA_DUO_API int32_t llama_duo_embed(uint32_t embedder, const void * json, int32_t len, uint32_t * job);

// How well documents answer a query, by an embedder with "pooling" "rank" of a model that is a reranker. Options: { "query": text, "documents": [text] }
// Result: { "documents" }; data: a score for each, float: more is better, and there is no scale.
LLAMA_DUO_API int32_t llama_duo_rank(uint32_t embedder, const void * json, int32_t len, uint32_t * job);

// --- chats ---

// A prompt of messages, by the model's chat template and llama.cpp's template engine.
// Options: { "messages": [at least one, as OpenAI's chat completions have them: { "role", "content", "tool_calls"?, "tool_call_id"?,
//   "reasoning_content"? }], "tools"?: [{ "type": "function", "function": { "name", "description", "parameters": JSON schema } }], "toolChoice"?:
//   "auto" | "none" | "required" (the answer, but for reasoning, is a call), "parallelToolCalls"?: boolean (false), "addAssistant"?: boolean (true; ends with the beginning of the assistant's
//   turn), "continueLast"?: boolean (false; the last message is the assistant's, to be continued), "thinking"?: boolean (true; where the template
//   knows of it), "reasoningBudget"?: integer >= -1 (-1: tokens of reasoning without an end), "reasoning"?: "auto" | "none" | "deepseek" |
//   "deepseek-legacy" (how reasoning is told apart: "none" leaves it in the content), "jsonSchema"?: object (of the answer, not with
//   tools; a grammar of it is llama_duo_generate's), "template"?: string (in place of the model's), "variables"?: object (for the template), "now"?: seconds since 1970 (the
//   template's date; now) }
// Result: { "prompt": text (without the token that the model's tokenizer puts before all texts, if any), "tokens": how many, "cuts": places where
//   the text of messages or tools would have been read as special tokens, "stop": [string] (further stop strings), "supportsThinking": boolean,
//   "sampling": object (for llama_duo_generate's "chat"), "parser": object (for llama_duo_chat_parse) }; data: the prompt's ids, int32_t. The names
//   of special tokens in messages and tools are text there, whatever they are: only the template's own are special tokens, so the ids are what to
//   generate from, not the text. Error code "template": it refuses the messages, they or it nest too deeply, or it has no place for tools that may be
//   called.
LLAMA_DUO_API int32_t llama_duo_chat_apply(uint32_t model, const void * json, int32_t len, uint32_t * job);

// A message of what was generated. Options: { "text": string, "parser": from llama_duo_chat_apply, "partial"?: boolean (false; the text goes on) }
// Result: { "content", "reasoning", "toolCalls": [{ "id", "name", "arguments": JSON text }] }. What is no message of the template's format is content, as
//   it stands, from behind the content and reasoning before it.
LLAMA_DUO_API int32_t llama_duo_chat_parse(const void * json, int32_t len, uint32_t * job);

// Options: { "schema": a JSON schema }. Result: { "grammar": GBNF of the JSON that it describes }
LLAMA_DUO_API int32_t llama_duo_schema_grammar(const void * json, int32_t len, uint32_t * job);

// --- process ---

// From now on what the calling thread submits, and what comes of it, ends with that thread: its jobs are cancelled, and what they made is freed. For
// a JavaScript worker, which may end without another call. Other threads may use those handles as before.
LLAMA_DUO_API int32_t llama_duo_own_by_this_thread(void);

// Cancels all jobs and waits, at most timeout_ms, until the library's threads rest; LLAMA_DUO_E_STATE where some still work then. The library
// does this itself at exit; a caller may do so earlier, and go on using it.
LLAMA_DUO_API int32_t llama_duo_shutdown(int32_t timeout_ms);

#ifdef __cplusplus
}
#endif
