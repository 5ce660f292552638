#!/usr/bin/env python3
"""What drafted tokens save: bench/server_drafts.py -m MODEL [options] [-- FLAGS OF BOTH]

Asks `llama serve` to repeat a text, which the model has to read first, without drafts and with them, at each number of drafted tokens. The text's own words are the
drafts (`--spec-type ngram-simple`), so that drafting costs nothing and what is timed is how much several tokens at once cost beside one; --draft names a
smaller model of the same vocabulary instead. A `--json` row has

    heads                 full (stock) or duo
    kv                    the cache type
    max                   tokens drafted at a time; 0: none
    prompt, generated     tokens
    speed                 generated tokens/s, the median of the runs
    drafted, accepted     tokens, of one run
    tokensAStep           generated tokens for each step of the model
    gain                  times the speed without drafts
    same                  whether all answers are the first one without drafts, to the letter

    bench/server_drafts.py -m Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf --kv f16,q8_0 -- -c 8192

Python 3's standard library is all it needs.
"""

import http.client
import json
import os
import statistics

from server_prefill import ROOT, Server, flags_of, parser


def parse():
    p = parser("Tokens/s of a repeated text with and without drafts.", "a GGUF of a model that follows instructions")
    p.add_argument("--draft", help="a smaller model of the same vocabulary; without it the prompt is what is drafted from")
    p.add_argument("--text", default=os.path.join(ROOT, "cpp/gates/budget-selection.cpp"), help="what is repeated (a source file of ours)")
    p.add_argument("--repeat", type=int, default=1, help="how often the text stands in the prompt: longer contexts (1)")
    p.add_argument("--max", default="0,3,7,15", help="drafted tokens at a time; 0 is measured in any case (0,3,7,15)")
    p.add_argument("--generate", type=int, default=128, help="tokens of an answer (128)")
    p.add_argument("--runs", type=int, default=3, help="answers of each server (3)")
    return p.parse_args()


def ask(server, options, question, n_predict):
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": n_predict, "cache_prompt": True}
    try:
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=options.wait)
        c.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = c.getresponse()
        answer = response.read()
        if response.status != 200:
            raise OSError("status %d: %s" % (response.status, answer[:500]))
        answer = json.loads(answer)
        return answer["choices"][0]["message"]["content"], answer["timings"]
    except (OSError, ValueError, KeyError, http.client.HTTPException) as e:
        server.check()
        raise SystemExit("llama serve gave no answer: %s\n%s" % (e, server.tail()))


def draft_flags(options, n_max):
    if n_max == 0:
        return []
    if options.draft:
        return ["-md", options.draft, "--spec-type", "draft-simple", "--spec-draft-n-max", str(n_max)]
    # a draft shorter than what it is looked up by is none, so 3
    return ["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "3", "--spec-ngram-simple-size-m", str(n_max)]


def measure(options, heads, kv, n_max, question):
    server = Server(options, ["-np", "1"] + flags_of(options, heads, kv) + draft_flags(options, n_max))
    try:
        server.wait(options.wait)
        ask(server, options, question, 1)  # the prompt
        answers = [ask(server, options, question, options.generate) for _ in range(options.runs)]
        timings = answers[-1][1]
        generated, accepted = timings["predicted_n"], timings.get("draft_n_accepted", 0)
        return {"heads": heads, "kv": kv, "max": n_max, "prompt": timings["cache_n"] + timings["prompt_n"], "generated": generated,
                "speed": statistics.median(t["predicted_per_second"] for _, t in answers), "drafted": timings.get("draft_n", 0), "accepted": accepted,
                "tokensAStep": generated / max(1, generated - accepted), "texts": [text for text, _ in answers]}
    finally:
        server.stop()


def main():
    options = parse()
    sizes = sorted({0, *map(int, options.max.split(","))})
    if not options.draft and any(n in (1, 2) for n in sizes):
        raise SystemExit("--max %s: 1 and 2 draft nothing from a prompt, where 3 tokens have to be found again: give 3 or more, or --draft" % options.max)
    with open(options.text, encoding="utf-8") as f:
        text = f.read()
    question = "```\n%s```\nRepeat this from its beginning, without a change, in one code block, and say nothing else." % (text * options.repeat)
    rows = []
    for heads in options.heads.split(","):
        for kv in options.kv.split(","):
            plain = None
            for n_max in sizes:
                row = measure(options, heads, kv, n_max, question)
                plain = plain or row # the first is without drafts
                row["gain"] = row["speed"] / plain["speed"]
                row["same"] = all(text == plain["texts"][0] for text in row["texts"])
                rows.append(row)
                if not options.json:
                    if len(rows) == 1:
                        print("%d tokens of a prompt, %d generated" % (row["prompt"], row["generated"]))
                        print("heads  kv     max  tokens/s  tokens a step   gain  accepted  same")
                    print("%-6s %-6s %3d %9.2f %14.2f %6s %9s  %s" % (heads, kv, n_max, row["speed"], row["tokensAStep"], "%.2f" % row["gain"],
                                                                    "%d/%d" % (row["accepted"], row["drafted"]), "yes" if row["same"] else "no"), flush=True)
    if options.json:
        rows = [{k: v for k, v in row.items() if k != "texts"} for row in rows]
        print(json.dumps({"model": os.path.basename(options.model), "threads": options.threads, "load": os.getloadavg()[0], "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
