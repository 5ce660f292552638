// Gate patterns and head selection.
//   test-gates [FOLDER]   FOLDER or $LLAMA_DUO_PATTERNS holds DuoAttention's published patterns; without it that part is skipped.

#include "check.h"

#include "../gates/gate-pattern.h"
#include "../gates/head-selection.h"

#include <algorithm>
#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <random>

#ifndef _WIN32
#include <sys/stat.h>
#endif

namespace fs = std::filesystem;

using namespace duo;

static gate_pattern parse(const std::string & text) { return parse_gate_pattern(text, "in"); }

static bool same(const std::vector<cache_type_loss> & a, const std::vector<cache_type_loss> & b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const cache_type_loss & x, const cache_type_loss & y) {
        return x.type == y.type && x.loss == y.loss && x.correct == y.correct && x.finer == y.finer && x.finer_layers == y.finer_layers;
    });
}

static bool same(const gate_pattern & a, const gate_pattern & b) {
    return same(a.k_types, b.k_types) && same(a.v_types, b.v_types) &&
           a.n_layer == b.n_layer && a.n_head_kv == b.n_head_kv && a.n_head_layer == b.n_head_layer && a.gates.size() == b.gates.size() &&
           std::memcmp(a.gates.data(), b.gates.data(), a.gates.size() * sizeof(float)) == 0 &&
           a.sink == b.sink && a.recent == b.recent && a.provenance == b.provenance &&
           a.windows == b.windows && a.sinks == b.sinks && a.loss_windows == b.loss_windows && a.losses == b.losses;
}

// Bits of heads that stream, layer by layer.
static std::string bits(const head_selection & s) {
    std::string out;
    for (const auto & layer : s.streaming) {
        for (const uint8_t x : layer) {
            out += x ? '1' : '0';
        }
        out += ' ';
    }
    out.pop_back();
    return out;
}

static std::vector<int32_t> heads_of(const gate_pattern & p) {
    std::vector<int32_t> n;
    for (int32_t il = 0; il < p.n_layer; ++il) {
        n.push_back(p.n_head(il));
    }
    return n;
}

// As np.savetxt writes it.
static std::string to_tsv(const gate_pattern & p) {
    std::string out;
    for (int32_t il = 0; il < p.n_layer; ++il) {
        for (int32_t ih = 0; ih < p.n_head_kv; ++ih) {
            char cell[64];
            snprintf(cell, sizeof(cell), "%.18e", double(p.at(il, ih)));
            out += cell;
            out += ih + 1 < p.n_head_kv ? '\t' : '\n';
        }
    }
    return out;
}

static gate_pattern random_pattern(std::mt19937 & rng, int32_t n_layer, int32_t n_head_kv) {
    gate_pattern p;
    p.n_layer   = n_layer;
    p.n_head_kv = n_head_kv;
    for (int32_t i = 0; i < n_layer * n_head_kv; ++i) {
        p.gates.push_back(float(rng() >> 8) / (1 << 24));
    }
    return p;
}

// A folder that goes away with the test.
struct temporary_folder {
    fs::path path = fs::temp_directory_path() / ("test-gates-" + std::to_string(std::random_device()()));
    temporary_folder() { fs::create_directories(path); }
    ~temporary_folder() { std::error_code ignored; fs::remove_all(path, ignored); }

    std::string write(const std::string & name, const std::string & text) const {
        fs::create_directories((path / name).parent_path());
        std::ofstream(path / name, std::ios::binary) << text;
        return (path / name).string();
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// What is read
// ---------------------------------------------------------------------------------------------------------------------

static void test_tsv() {
    const gate_pattern p = parse("8.593750000000000000e-01\t-9.584426879882812500e-05\n1.000000000000000000e+00\t1.000976562500000000e+00\n");
    CHECK_EQ(p.n_layer, 2);
    CHECK_EQ(p.n_head_kv, 2);
    CHECK(p.n_head_layer.empty());
    CHECK(p.gates == std::vector<float>({ 0.859375f, 0, 1, 1 }));
    CHECK(!std::signbit(p.at(0, 1)));
    CHECK_EQ(p.sink, -1);
    CHECK_EQ(p.recent, -1);
    CHECK_EQ(p.source, "in");

    CHECK(same(parse("0.5\t1\r\n0\t1e-3\r\n"), parse("0.5\t1\n0\t1e-3"))); // CRLF; no last newline
    CHECK(same(parse("0.5"), parse("0.5\n")));                             // one layer, one KV head
    CHECK(same(parse("-0.01\t1.01"), parse("0\t1")));
    CHECK(same(parse("-0.0\t1e-400"), parse("0\t0")));
    CHECK_EQ(parse("5E-1").at(0, 0), 0.5f);

    std::mt19937 rng(1);
    const gate_pattern q = random_pattern(rng, 32, 8);
    CHECK(same(parse(to_tsv(q)), q));
}

static void test_tsv_errors() {
    const struct { const char * name; std::string text, where, what; } cases[] = {
        { "empty",             "",                        "in, line 1, column 1: ", "there is no text" },
        { "white space",       " \n\t\r\n",               "line 1, column 1: ", "there is no text" },
        { "empty first line",  "\n0.5\n",                 "line 1, column 1: ", "this line is empty" },
        { "empty line",        "0.5\n\n0.5\n",            "line 2, column 1: ", "this line is empty" },
        { "two last newlines", "0.5\r\n\r\n",             "line 2, column 1: ", "this line is empty" },
        { "header",            "layer\thead\n0\t1\n",     "line 1, column 1: ", "cell 1 of 2, \"layer\", is not a number" },
        { "comment",           "# gates\n0.5\n",          "line 1, column 1: ", "\"# gates\", is not a number" },
        { "word",              "0.5\t0.5\n0.5\tfull\n",   "line 2, column 5: ", "cell 2 of 2, \"full\", is not a number" },
        { "nan",               "0.5\tnan\n",              "line 1, column 5: ", "\"nan\", is not a number" },
        { "inf",               "0.5\n-inf\n",             "line 2, column 1: ", "\"-inf\", is not a number" },
        { "hex",               "0x1p-1\n",                "line 1, column 1: ", "\"0x1p-1\", is not a number" },
        { "two points",        "0.5.1\n",                 "line 1, column 1: ", "is not a number" },
        { "bare exponent",     "1e\n",                    "line 1, column 1: ", "is not a number" },
        { "overflow",          "0\t1e999\n",              "line 1, column 3: ", "\"1e999\", is not a number" },
        { "too large",         "0.5\t1.02\n",             "line 1, column 5: ", "\"1.02\", is out of range; expected a number from 0 to 1" },
        { "too small",         "0.5\t-0.011\n",           "line 1, column 5: ", "\"-0.011\", is out of range" },
        { "short row",         "0\t1\t0\n0\t1\n",         "line 2, column 4: ", "this row has 2 cells, the first row 3" },
        { "long row",          "0\t1\r\n0\t1\t0.25\r\n",  "line 2, column 5: ", "this row has 3 cells, the first row 2" },
        { "first tab",         "\t0.5\n",                 "line 1, column 1: ", "cell 1 of 2 is empty" },
        { "last tab",          "0.5\t\n",                 "line 1, column 5: ", "cell 2 of 2 is empty" },
        { "two tabs",          "0.5\t\t0.5\n",            "line 1, column 5: ", "cell 2 of 3 is empty" },
        { "spaces",            "0.5 0.5\n",               "line 1, column 4: ", "holds a space; expected numbers with one tab between them" },
        { "space at the end",  "0.5\t0.5 \n",             "line 1, column 8: ", "holds a space" },
        { "decimal comma",     "0.5\t0,5\n",              "line 1, column 6: ", "\"0,5\", holds a comma" },
        { "CSV",               "0.5,0.5\n",               "line 1, column 4: ", "holds a comma" },
        { "lone CR",           "0.5\r0.5\n",              "line 1, column 4: ", "\"0.5\\x0d0.5\", holds a control character" },
        { "NUL",               { "0.5\t0\0\n", 7 },       "line 1, column 6: ", "\"0\\x00\", holds a NUL byte" },
        { "UTF-16 without BOM", { "0\0.\0005\0", 6 },     "line 1, column 2: ", "NUL byte; expected plain text" },
        { "UTF-16 LE",         { "\xFF\xFE" "0\0", 4 },   "line 1, column 1: ", "UTF-16 byte order mark" },
        { "UTF-16 BE",         { "\xFE\xFF\0" "0", 4 },   "line 1, column 1: ", "UTF-16 byte order mark" },
        { "UTF-8 BOM",         "\xEF\xBB\xBF" "0.5\n",    "line 1, column 1: ", "UTF-8 byte order mark" },
        { "minus sign U+2212", "0.5\n\xE2\x88\x92" "1\n", "line 2, column 1: ", "\"\xE2\x88\x92" "1\", holds a character that is not ASCII" },
        { "Latin-1",           "0.5\t0.5\xA0\n",          "line 1, column 8: ", "\"0.5\\xa0\", holds a character that is not ASCII" },
        { "long value",        std::string(5000, 'x'),    "line 1, column 1: ", "\"" + std::string(40, 'x') + "... (5000 bytes)\"" },
        { "JSON array",        "[[0.5]]",                 "line 1, column 1: ", "is not a number" },
    };
    for (const auto & c : cases) {
        CHECK_THROWS(parse(c.text), gate_error, c.where);
        CHECK_THROWS(parse(c.text), gate_error, c.what);
        if (check::n_failed > 0) {
            std::cerr << "    in case: " << c.name << "\n";
            break;
        }
    }

    std::string wide = "0";
    for (int i = 0; i < 4096; ++i) {
        wide += "\t0";
    }
    CHECK_THROWS(parse(wide), gate_error, "line 1, column 8193: more than 4096 cells");
    CHECK_EQ(parse(wide.substr(2)).n_head_kv, 4096);

    std::string deep;
    for (int i = 0; i < 4097; ++i) {
        deep += "0\n";
    }
    CHECK_THROWS(parse(deep), gate_error, "line 4097, column 1: more than 4096 lines");
    CHECK_EQ(parse(deep.substr(2)).n_layer, 4096);

    CHECK_THROWS(parse(std::string(16 * 1024 * 1024 + 1, '0')), gate_error, "in: 16777217 bytes; expected a gate pattern of at most 16 MiB");
}

static void test_json() {
    const std::string text =
        "{\n"
        "  \"llamaDuoPattern\": 1,\n"
        "  \"layers\": 3,\n"
        "  \"kvHeads\": 2,\n"
        "  \"sink\": 64,\n"
        "  \"recent\": 256,\n"
        "  \"gates\": [\n"
        "    [0.1, 1.0],\n"
        "    [0.333],\n"
        "    []\n"
        "  ],\n"
        "  \"provenance\": {\"method\":\"test\",\"model\":\"caf\xC3\xA9\"}\n"
        "}\n";
    const gate_pattern p = parse(text);
    CHECK_EQ(p.n_layer, 3);
    CHECK_EQ(p.n_head_kv, 2);
    CHECK(p.n_head_layer == std::vector<int32_t>({ 2, 1, 0 }));
    CHECK(p.gates == std::vector<float>({ 0.1f, 1, 0.333f, 0, 0, 0 }));
    CHECK_EQ(p.sink, 64);
    CHECK_EQ(p.recent, 256);
    CHECK_EQ(p.provenance, "{\"method\":\"test\",\"model\":\"caf\xC3\xA9\"}");
    CHECK_EQ(gate_pattern_to_json(p), text);

    const gate_pattern q = parse(" \r\n{\"gates\":[[1,-0.001]],\"kvHeads\":2,\"layers\":1,\"llamaDuoPattern\":1}");
    CHECK_EQ(q.sink, -1);
    CHECK(q.n_head_layer.empty());
    CHECK(q.gates == std::vector<float>({ 1, 0 }));
    CHECK_EQ(q.provenance, "");
}

static void test_json_errors() {
    const auto with = [](const std::string & rest) { return "{\"llamaDuoPattern\":1,\n" + rest + "}"; };
    const struct { const char * name; std::string text, where, what; } cases[] = {
        { "no version",      "{}",                                "in, line 1, column 1: ", "there is no \"llamaDuoPattern\"" },
        { "version 3",       "{\"llamaDuoPattern\": 3, \"x\":1}", "line 1, column 21: ", "\"llamaDuoPattern\" is 3; this build reads versions 1 and 2" },
        { "version 0",       "{\"llamaDuoPattern\": 0}",          "line 1, column 21: ", "\"llamaDuoPattern\" is 0; this build reads versions 1 and 2" },
        { "version 1.5",     "{\"llamaDuoPattern\": 1.5}",        "line 1, column 21: ", "\"llamaDuoPattern\" is 1.5" },
        { "version text",    "{\"llamaDuoPattern\": \"1\"}",      "line 1, column 21: ", "\"llamaDuoPattern\" is \"1\"" },
        { "unknown key",     with("\"layers\":1, \"haeds\":2"),   "line 2, column 13: ", "unknown key \"haeds\"; expected llamaDuoPattern, layers, kvHeads" },
        { "key twice",       with("\"sink\":1, \"sink\":2"),      "line 2, column 11: ", "the key \"sink\" is there twice" },
        { "no layers",       with("\"kvHeads\":1"),               "line 1, column 1: ", "there is no \"layers\"" },
        { "no kvHeads",      with("\"layers\":1"),                "line 1, column 1: ", "there is no \"kvHeads\"" },
        { "no gates",        with("\"layers\":1,\"kvHeads\":1"),  "line 1, column 1: ", "there is no \"gates\"" },
        { "layers 0",        with("\"layers\":0,\"kvHeads\":1"),  "line 2, column 10: ", "\"layers\" is 0; expected a whole number from 1 to 4096" },
        { "layers 1.5",      with("\"layers\":1.5,\"kvHeads\":1"), "line 2, column 10: ", "\"layers\" is 1.5; expected a whole number" },
        { "layers huge",     with("\"layers\":18446744073709551615,\"kvHeads\":1"), "line 2, column 10: ", "\"layers\" is 18446744073709551615" },
        { "layers text",     with("\"layers\":\"a\\\"\\\\\\n\",\"kvHeads\":1"), "line 2, column 10: ", "\"layers\" is \"a\\\"\\\\\\n\"; expected" },
        { "kvHeads 4097",    with("\"layers\":1,\"kvHeads\":4097"), "line 2, column 22: ", "\"kvHeads\" is 4097; expected a whole number from 1 to 4096" },
        { "sink negative",   with("\"layers\":1,\"kvHeads\":1,\"sink\":-1"), "line 2, column 31: ", "\"sink\" is -1; expected a whole number from 0" },
        { "recent null",     with("\"layers\":1,\"kvHeads\":1,\"recent\": null"), "line 2, column 34: ", "\"recent\" is null" },
        { "provenance text", with("\"layers\":1,\"kvHeads\":1,\"provenance\":\"me\""), "line 2, column 37: ", "\"provenance\" is \"me\"; expected an object" },
        { "gates object",    with("\"layers\":1,\"kvHeads\":1,\"gates\":{}"), "line 2, column 32: ", "\"gates\" is an object; expected an array of 1 rows" },
        { "rows missing",    with("\"layers\":2,\"kvHeads\":1,\"gates\":[[1]]"), "line 2, column 32: ", "\"gates\" is an array of 1; expected an array of 2 rows" },
        { "row number",      with("\"layers\":1,\"kvHeads\":1,\"gates\":[1]"), "line 2, column 33: ", "gates[0] is 1; expected an array of numbers" },
        { "row long",        with("\"layers\":2,\"kvHeads\":1,\"gates\":[[1],\n[1,0]]"), "line 3, column 4: ", "gates[1] has 2 gates; expected at most 1" },
        { "rows narrow",     with("\"layers\":1,\"kvHeads\":3,\"gates\":[[1,0]]"), "line 2, column 22: ", "\"kvHeads\" is 3, but the widest row of \"gates\" has 2" },
        { "gate text",       with("\"layers\":1,\"kvHeads\":2,\"gates\":[[1,\"0\"]]"), "line 2, column 36: ", "gates[0][1] is \"0\"; expected a number from 0 to 1" },
        { "gate null",       with("\"layers\":1,\"kvHeads\":2,\"gates\":[[1,null]]"), "line 2, column 36: ", "gates[0][1] is null" },
        { "gate true",       with("\"layers\":1,\"kvHeads\":2,\"gates\":[[1,true]]"), "line 2, column 36: ", "gates[0][1] is true" },
        { "gate large",      with("\"layers\":1,\"kvHeads\":2,\"gates\":[[1,1.5e0]]"), "line 2, column 36: ", "gates[0][1] is 1.5e0" },
        { "gate overflow",   with("\"layers\":1,\"kvHeads\":2,\"gates\":[[1,1e999]]"), "line 2, column 36: ", "number overflow parsing '1e999'" },
        { "gate NaN",        with("\"layers\":1,\"kvHeads\":2,\"gates\":[[1,NaN]]"), "line 2, column 36: ", "not valid JSON: syntax error" },
        { "not closed",      "{\"llamaDuoPattern\":1",            "line 1, column 21: ", "not valid JSON: syntax error" },
        { "no comma",        "{\n\"a\": 1 \"b\": 2}",             "line 2, column 10: ", "not valid JSON" },
        { "text after",      "{}\n{\"a\":1}",                     "line 2, column 1: ", "not valid JSON" },
        { "NUL after",       { "{}\0x", 4 },                      "line 1, column 3: ", "a NUL byte" },
        { "UTF-16",          { "{\0\"\0", 4 },                    "line 1, column 2: ", "a NUL byte" },
        { "Latin-1",         "{\"caf\xE9\": 1}",                  "line 1, column 6: ", "the byte \\xe9 is not UTF-8" },
        { "column after UTF-8", "{\"caf\xC3\xA9\": 1, x}",        "line 1, column 13: ", "not valid JSON" },
        { "comment",         "{ // gates\n}",                     "line 1, column 3: ", "not valid JSON" },
        { "deep",            "{\"a\":" + std::string(1000000, '['), "line 1, column 69: ", "nested more than 64 deep" },
        { "long token",      "{\"a\": \"" + std::string(5000, 'x'), "line 1, column 5008: ", "bytes)" },
    };
    for (const auto & c : cases) {
        CHECK_THROWS(parse(c.text), gate_error, c.where);
        CHECK_THROWS(parse(c.text), gate_error, c.what);
    }
}

// Version 2: windows and sinks, and the losses that they cost.
static void test_windows() {
    const std::string text =
        "{\n"
        "  \"llamaDuoPattern\": 2,\n"
        "  \"layers\": 3,\n"
        "  \"kvHeads\": 2,\n"
        "  \"recent\": 256,\n"
        "  \"gates\": [\n"
        "    [0.1, 1.0],\n"
        "    [],\n"
        "    [0.333]\n"
        "  ],\n"
        "  \"windows\": [\n"
        "    [64, 4096],\n"
        "    [],\n"
        "    [0]\n"
        "  ],\n"
        "  \"sinks\": [4, 0, 64],\n"
        "  \"losses\": {\n"
        "    \"windows\": [0, 64, 1024],\n"
        "    \"heads\": [\n"
        "      [[0.5, 0.25, -1e-06], [7.0, 3.5, 0.1]],\n"
        "      [],\n"
        "      [[0.0, 0.0, 0.0]]\n"
        "    ]\n"
        "  }\n"
        "}\n";
    const gate_pattern p = parse(text);
    CHECK_EQ(p.window(0, 1), 4096);
    CHECK_EQ(p.window(2, 0), 0);
    CHECK(p.sinks == std::vector<int32_t>({ 4, 0, 64 }));
    CHECK(p.loss_windows == std::vector<int32_t>({ 0, 64, 1024 }));
    CHECK_EQ(p.loss(0, 0, 2), -1e-6f);
    CHECK_EQ(p.loss(0, 1, 1), 3.5f);
    CHECK_EQ(gate_pattern_to_json(p), text);
    CHECK_EQ(parse("{\"llamaDuoPattern\":2,\"layers\":1,\"kvHeads\":1,\"gates\":[[1]]}").windows.size(), 0u);

    const auto with = [](const std::string & rest) { return "{\"llamaDuoPattern\":2,\"layers\":2,\"kvHeads\":2,\"gates\":[[1,0],[1]],\n" + rest + "}"; };
    const auto k_types = [&](const std::string & q4_0) {
        return with("\"cacheTypes\":{\"k\":{\"f16\":{\"loss\":0,\"correct\":1},\"q4_0\":" + q4_0 + "},\"v\":{\"f16\":{\"loss\":0,\"correct\":1}}}");
    };
    const auto finer = [&](const std::string & finer) { return k_types("{\"loss\":9,\"correct\":0,\"finer\":" + finer + "}"); };
    const gate_pattern mixed = parse_gate_pattern(finer(R"([{"type":"q8_0","layers":[0],"loss":0.5,"correct":0.9},{"type":"q8_0","layers":[0,1],"loss":0.25,"correct":1}])"), "mixed");
    CHECK_EQ(mixed.k_types.size(), size_t(4)); // as losses rise
    CHECK(mixed.k_types[1].type == "q4_0" && mixed.k_types[1].finer == "q8_0" && mixed.k_types[1].finer_layers == std::vector<int32_t>({ 0, 1 }) && mixed.k_types[1].loss == 0.25f);
    CHECK(mixed.k_types[2].finer_layers == std::vector<int32_t> { 0 } && mixed.k_types[2].correct == 0.9f);
    CHECK(mixed.k_types[3].finer_layers.empty() && mixed.k_types[3].loss == 9);
    CHECK_EQ(gate_pattern_to_json(parse_gate_pattern(gate_pattern_to_json(mixed), "again")), gate_pattern_to_json(mixed));
    gate_pattern wrong = mixed;
    wrong.v_types.push_back(wrong.k_types[1]);
    CHECK_THROWS(check_gate_pattern(wrong), gate_error, "cacheTypes.v has layers of a finer type");
    const auto refused = [&](const std::function<void(gate_pattern &)> & change) {
        wrong = mixed;
        change(wrong);
        CHECK_THROWS(check_gate_pattern(wrong), gate_error, "expected both or neither, beside a loss of all layers alike, and none for f16");
    };
    refused([](gate_pattern & p) { p.k_types[1].finer.clear(); });
    refused([](gate_pattern & p) { p.k_types[3].finer = "q8_0"; });
    refused([](gate_pattern & p) { p.k_types.pop_back(); });
    refused([](gate_pattern & p) { p.k_types[1].type = "f16"; });
    wrong = mixed;
    wrong.k_types[1].finer_layers = { 0, 2 };
    CHECK_THROWS(check_gate_pattern(wrong), gate_error, "finer layers that don't rise from 0 to 1");

    const struct { std::string text, where, what; } cases[] = {
        { finer("[]"),                           "",                    "cacheTypes.k.q4_0.finer is an array; expected an array of 1 to 64 objects" },
        { finer("{}"),                           "",                    "cacheTypes.k.q4_0.finer is an object; expected an array" },
        { finer(R"([{"type":"q8_0","loss":0,"correct":1}])"), "",       "correct\": a number from 0 to 1, \"type\": the name of a cache type, \"layers\": an array" },
        { finer(R"([{"type":8,"layers":[0],"loss":0,"correct":1}])"), "", "cacheTypes.k.q4_0.finer[0] is an object; expected { \"loss\", \"correct\", \"type\": the name of a cache type, \"layers\"" },
        { finer(R"([{"type":"q8_0","layers":[2],"loss":0,"correct":1}])"), "", "cacheTypes.k.q4_0.finer[0].layers[0] is 2; expected a whole number from 0 to 1" },
        { finer(R"([{"type":"q8_0","layers":[1,0],"loss":0,"correct":1}])"), "", "cacheTypes.k.q4_0.finer[0].layers[1] is 0; expected layers that rise, and 1 is before it" },
        { with(R"("cacheTypes":{"k":{"f16":{"loss":0,"correct":1,"finer":[]}},"v":{"f16":{"loss":0,"correct":1}}})"), "", "cacheTypes.k.f16 is an object; expected { \"loss\"" },
        { k_types("{\"loss\":9,\"correct\":0,\"coarser\":[]}"), "",    "cacheTypes.k.q4_0 is an object; expected { \"loss\"" },
        { with("\"windos\":[]"),                 "line 2, column 1: ",  "unknown key \"windos\"; expected llamaDuoPattern, layers, kvHeads, sink, recent, gates or provenance, windows, sinks, losses or cacheTypes" },
        { with("\"windows\":[[1,2]]"),           "line 2, column 11: ", "windows is an array of 1; expected an array of 2 rows, because \"layers\" is 2" },
        { with("\"windows\":[[1,2],[1,2]]"),     "line 2, column 18: ", "windows[1] is an array of 2; expected an array of 1 values, because gates[1] has as many" },
        { with("\"windows\":[[1,-2],[1]]"),      "line 2, column 15: ", "windows[0][1] is -2; expected a whole number from 0 to 536870912" },
        { with("\"windows\":[[1,2.5],[1]]"),     "line 2, column 15: ", "windows[0][1] is 2.5" },
        { with("\"windows\":[[1,2],[null]]"),    "line 2, column 19: ", "windows[1][0] is null" },
        { with("\"sinks\":4"),                   "line 2, column 9: ",  "\"sinks\" is 4; expected an array of 2 numbers" },
        { with("\"sinks\":[4,\"a\"]"),           "line 2, column 12: ", "sinks[1] is \"a\"; expected a whole number" },
        { with("\"losses\":[]"),                 "line 2, column 10: ", "\"losses\" is an array; expected an object with \"windows\" and \"heads\"" },
        { with("\"losses\":{\"windows\":[1],\"heads\":[],\"x\":1}"), "line 2, column 10: ", "\"losses\" is an object; expected" },
        { with("\"losses\":{\"windows\":[],\"heads\":[]}"),    "line 2, column 21: ", "losses.windows is an array of 0; expected an array of 1 to 64" },
        { with("\"losses\":{\"windows\":[8,8],\"heads\":[]}"), "line 2, column 24: ", "losses.windows[1] is 8; expected a whole number from 9" },
        { with("\"losses\":{\"windows\":[8],\"heads\":[[[1],[2,3]],[[1]]]}"), "line 2, column 39: ", "losses.heads[0][1] is an array of 2; expected an array of 1 losses" },
        { with("\"losses\":{\"windows\":[8],\"heads\":[[[1],[\"2\"]],[[1]]]}"), "line 2, column 40: ", "losses.heads[0][1][0] is \"2\"; expected a number" },
        { with("\"losses\":{\"windows\":[8],\"heads\":[[[1],[1e300]],[[1]]]}"), "line 2, column 40: ", "losses.heads[0][1][0] is 1e300; expected a number" },
        { "{\"llamaDuoPattern\":1,\"layers\":1,\"kvHeads\":1,\"gates\":[[1]],\n\"sinks\":[1]}", "line 2, column 1: ", "the key \"sinks\" is one of version 2, and \"llamaDuoPattern\" is 1" },
    };
    for (const auto & c : cases) {
        CHECK_THROWS(parse(c.text), gate_error, c.where);
        CHECK_THROWS(parse(c.text), gate_error, c.what);
    }

    // made elsewhere
    const auto broken = [&](const std::function<void(gate_pattern &)> & change) {
        gate_pattern q = p;
        change(q);
        return gate_pattern_to_json(q);
    };
    CHECK_THROWS(broken([](gate_pattern & q) { q.windows.pop_back(); }), gate_error, "there are 5 windows; expected 6, or none");
    CHECK_THROWS(broken([](gate_pattern & q) { q.windows[1] = -1; }), gate_error, "windows[0][1] is -1; expected a whole number from 0");
    CHECK_THROWS(broken([](gate_pattern & q) { q.sinks.push_back(1); }), gate_error, "there are 4 sinks; expected 3, or none");
    CHECK_THROWS(broken([](gate_pattern & q) { q.losses.pop_back(); }), gate_error, "there are 17 losses; expected 6 for each of 3 windows");
    CHECK_THROWS(broken([](gate_pattern & q) { q.losses[2] = NAN; }), gate_error, "losses.heads[0][0][2] is ");
    CHECK_THROWS(broken([](gate_pattern & q) { q.loss_windows[2] = 64; }), gate_error, "losses.windows[2] is 64; expected a whole number from 65");
}

static void test_json_round_trip() {
    std::mt19937 rng(2);
    for (int round = 0; round < 20; ++round) {
        gate_pattern p = random_pattern(rng, 1 + rng() % 40, 1 + rng() % 40);
        for (float & gate : p.gates) { // every exponent, and the ends
            gate = rng() % 16 == 0 ? float(rng() % 2) : std::ldexp(gate, -int(rng() % 160));
        }
        p.sink       = round % 2 ? 128 : -1;
        p.recent     = round % 3 ? 256 : -1;
        p.provenance = round % 2 ? "{\"data\":[1,2.5,null,\"\\\"\\n\"],\"lr\":0.02,\"seed\":18446744073709551615}" : "";
        if (round % 4 >= 2) {
            for (size_t i = 0; i < p.gates.size(); ++i) {
                p.windows.push_back(int32_t(rng() % (max_gate_window + 1)));
            }
            p.sinks.assign(size_t(p.n_layer), int32_t(rng() % 100));
        }
        if (round % 4 >= 1) {
            p.loss_windows = { int32_t(rng() % 10), 10, max_gate_window };
            for (size_t i = 0; i < p.gates.size() * 3; ++i) {
                p.losses.push_back(std::ldexp(float(int64_t(rng()) - (1ll << 31)), -int(rng() % 170)));
            }
        }
        CHECK(same(parse(gate_pattern_to_json(p)), p));
        CHECK_EQ(gate_pattern_to_json(parse(gate_pattern_to_json(p))), gate_pattern_to_json(p));
    }

    gate_pattern p = parse("0.5\t0.5");
    p.gates[1] = NAN;
    CHECK_THROWS(gate_pattern_to_json(p), gate_error, "in: gates[0][1] is ");
    p.gates.pop_back();
    CHECK_THROWS(gate_pattern_to_json(p), gate_error, "there are 1 gates; expected 1 layers x 2 KV heads");
    CHECK_THROWS(gate_pattern_to_json(gate_pattern()), gate_error, "expected at least one of each");
}

static void test_files() {
    const temporary_folder folder;
    const std::string tsv    = "0.5\t1\n0\t0.25\n";
    const std::string config = "{\"model_name\": \"models/a\", \"config_name\": null, \"lr\": 0.02, \"sink_size\": 128, \"recent_size\": 256, \"seed\": 42, \"deploy_sink_size\": null}";

    folder.write("full/full_attention_heads.tsv", tsv);
    folder.write("full/config.json", config);
    const gate_pattern p = load_gate_pattern((folder.path / "full").string());
    CHECK(p.gates == std::vector<float>({ 0.5f, 1, 0, 0.25f }));
    CHECK_EQ(p.sink, 128);
    CHECK_EQ(p.recent, 256);
    CHECK_EQ(p.provenance, "{\"lr\":0.02,\"method\":\"duo-attention\",\"model\":\"models/a\",\"seed\":42}");
    CHECK_EQ(p.source, (folder.path / "full").string());

    folder.write("bare/full_attention_heads.tsv", tsv);
    CHECK_EQ(load_gate_pattern((folder.path / "bare").string()).sink, -1);

    CHECK(same(load_gate_pattern(folder.write("gates.tsv", tsv)), parse(tsv)));
    CHECK(same(load_gate_pattern(folder.write("caf\xC3\xA9.json", gate_pattern_to_json(p))), p));

    const auto bad_config = [&](const std::string & text, const std::string & wanted) {
        folder.write("bad/full_attention_heads.tsv", tsv);
        folder.write("bad/config.json", text);
        CHECK_THROWS(load_gate_pattern((folder.path / "bad").string()), gate_error, wanted);
    };
    bad_config("{\"sink_size\": \"128\"}",            "config.json, line 1, column 15: \"sink_size\" is \"128\"; expected a whole number");
    bad_config("{\"sink_size\": 1,\n \"recent_size\": 2.5}", "config.json, line 2, column 17: \"recent_size\" is 2.5");
    bad_config("[]",                                  "config.json, line 1, column 1: expected a JSON object, found an array");
    bad_config("",                                    "config.json, line 1, column 1: not valid JSON");
    bad_config("\"text\"",                            "config.json, line 1, column 1: expected a JSON object, found \"text\"");

    folder.write("broken/full_attention_heads.tsv", "0.5\nx\n");
    CHECK_THROWS(load_gate_pattern((folder.path / "broken").string()), gate_error, "full_attention_heads.tsv, line 2, column 1: ");

    CHECK_THROWS(load_gate_pattern((folder.path / "nothing").string()), gate_error, "nothing: no such file or folder");
    CHECK_THROWS(load_gate_pattern(""), gate_error, "no such file or folder");
    CHECK_THROWS(load_gate_pattern(std::string(10000, 'x')), gate_error, "");
    CHECK_THROWS(load_gate_pattern(folder.path.string()), gate_error, "this folder has no full_attention_heads.tsv");
    CHECK_THROWS(load_gate_pattern(folder.path.string()), gate_error, "Did you mean ");
    CHECK_THROWS(load_gate_pattern(folder.write("empty.tsv", "")), gate_error, "empty.tsv, line 1, column 1: there is no text");

    const std::string huge = folder.write("huge.gguf", "");
    fs::resize_file(huge, uintmax_t(1) << 36); // sparse: takes no space
    CHECK_THROWS(load_gate_pattern(huge), gate_error, "huge.gguf: 68719476736 bytes; expected a gate pattern of at most 16 MiB");
#ifndef _WIN32
    CHECK_THROWS(load_gate_pattern("/dev/zero"), gate_error, "/dev/zero: not a file or folder");
    // a pipe that nobody writes to: opening it would wait for ever
    CHECK(mkfifo((folder.path / "pipe").c_str(), 0600) == 0);
    CHECK_THROWS(load_gate_pattern((folder.path / "pipe").string()), gate_error, "pipe: not a file or folder");
    CHECK_THROWS(load_gate_pattern("/tmp/\x01\xFF"), gate_error, "/tmp/\\x01\\xff: no such file");
#endif
}

// A comma as decimal point must change nothing.
static void test_locale() {
    const char * found = nullptr;
    for (const char * name : { "de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "fr_FR.utf8", "German" }) {
        found = found ? found : std::setlocale(LC_ALL, name);
    }
    if (!found) {
        std::cout << "skipped: no locale with a decimal comma is installed\n";
        return;
    }
    const gate_pattern p = parse("8.5e-1\t0.125\n");
    CHECK(p.gates == std::vector<float>({ 0.85f, 0.125f }));
    CHECK(same(parse(gate_pattern_to_json(p)), p));
    CHECK_THROWS(parse("0,5\n"), gate_error, "holds a comma");
    std::setlocale(LC_ALL, "C");
}

// ---------------------------------------------------------------------------------------------------------------------
// What is chosen
// ---------------------------------------------------------------------------------------------------------------------

// np.quantile(gates, q), method "linear", as numpy computes it.
static double quantile(const std::vector<float> & gates, double q) {
    std::vector<double> sorted(gates.begin(), gates.end());
    std::sort(sorted.begin(), sorted.end());
    const double at   = double(sorted.size() - 1) * q;
    const size_t low  = size_t(std::floor(at));
    const size_t high = std::min(low + 1, sorted.size() - 1);
    const double t    = at - double(low);
    const double span = sorted[high] - sorted[low];
    return t >= 0.5 ? sorted[high] - span * (1 - t) : sorted[low] + span * t;
}

static void test_sparsity() {
    std::mt19937 rng(3);
    std::uniform_real_distribution<double> uniform(0, 1);
    for (int round = 0; round < 400; ++round) {
        gate_pattern p = random_pattern(rng, 1 + rng() % 40, 1 + rng() % 32);
        std::vector<float> sorted = p.gates;
        std::sort(sorted.begin(), sorted.end());
        if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
            continue; // a tie: the rules may differ
        }
        const double sparsity  = round % 4 == 0 ? 0.5 : round % 4 == 1 ? 0.25 : uniform(rng);
        const double threshold = quantile(p.gates, sparsity);
        const head_selection s = select_by_sparsity(p, heads_of(p), sparsity);
        bool agrees = true;
        for (int32_t il = 0; il < p.n_layer; ++il) {
            for (int32_t ih = 0; ih < p.n_head_kv; ++ih) {
                agrees = agrees && bool(s.streaming[il][ih]) == !(double(p.at(il, ih)) >= threshold);
            }
        }
        CHECK(agrees);
        CHECK_EQ(s.n_streaming() + s.n_retrieval(), uint32_t(p.gates.size()));
    }

    // k / (n - 1) streams k heads, however the quotient and the product round, as a double and as a float
    for (int32_t n = 2; n <= 1200; n += n < 300 ? 1 : 37) {
        gate_pattern p = random_pattern(rng, 1, n);
        bool exact = true;
        for (int32_t k = 0; k < n - 1; k += n < 100 ? 1 : 7) {
            const double sparsity = double(k) / (n - 1);
            exact = exact && select_by_sparsity(p, { n }, sparsity).n_streaming() == uint32_t(k) &&
                    select_by_sparsity(p, { n }, double(float(sparsity))).n_streaming() == uint32_t(k);
        }
        CHECK(exact);
    }
    const gate_pattern eleven = random_pattern(rng, 11, 1);
    CHECK_EQ(select_by_sparsity(eleven, heads_of(eleven), 0.3).n_streaming(), 3u);
    CHECK_EQ(select_by_sparsity(eleven, heads_of(eleven), 0.3f).n_streaming(), 3u);
    CHECK_EQ(select_by_sparsity(eleven, heads_of(eleven), 0.301).n_streaming(), 4u);
    CHECK_EQ(select_by_sparsity(eleven, heads_of(eleven), 1e-6).n_streaming(), 1u);

    const gate_pattern p = parse("0.5\t1\n0.25\t0.75\n");
    CHECK_EQ(bits(select_by_sparsity(p, { 2, 2 }, 0)),    "00 00");
    CHECK_EQ(bits(select_by_sparsity(p, { 2, 2 }, -1)),   "00 00");
    CHECK_EQ(bits(select_by_sparsity(p, { 2, 2 }, 0.5)),  "10 10");
    CHECK_EQ(bits(select_by_sparsity(p, { 2, 2 }, 0.99)), "10 11");
    CHECK_EQ(bits(select_by_sparsity(p, { 2, 2 }, 1)),    "11 11");
    CHECK_EQ(bits(select_by_sparsity(p, { 2, 2 }, INFINITY)), "11 11");
    CHECK_THROWS(select_by_sparsity(p, { 2, 2 }, NAN), gate_error, "sparsity is NaN");

    const gate_pattern one = parse("0.5");
    CHECK_EQ(bits(select_by_sparsity(one, { 1 }, 0.99)), "0");
    CHECK_EQ(bits(select_by_sparsity(one, { 1 }, 1)),    "1");
}

// Equal gates: the first in the order of (layer, head) stream.
static void test_ties() {
    const gate_pattern p = parse("1\t0.5\t1\n0.5\t1\t0\n1\t1\t1\n");
    CHECK_EQ(bits(select_by_sparsity(p, { 3, 3, 3 }, 1 / 8.0)), "000 001 000");
    CHECK_EQ(bits(select_by_sparsity(p, { 3, 3, 3 }, 2 / 8.0)), "010 001 000");
    CHECK_EQ(bits(select_by_sparsity(p, { 3, 3, 3 }, 3 / 8.0)), "010 101 000");
    CHECK_EQ(bits(select_by_sparsity(p, { 3, 3, 3 }, 4 / 8.0)), "110 101 000");
    CHECK_EQ(bits(select_by_sparsity(p, { 3, 3, 3 }, 6 / 8.0)), "111 111 000");
    CHECK_EQ(bits(select_by_sparsity(p, { 3, 3, 3 }, 7 / 8.0)), "111 111 100");

    // clipped values tie with 0, whatever they were
    CHECK_EQ(bits(select_by_sparsity(parse("0\t-0.001\t-0.0\t1"), { 4 }, 1 / 3.0)), "1000");
}

static void test_threshold() {
    const gate_pattern p = parse("0.7\t1\n0\t0.699\n");
    CHECK_EQ(bits(select_by_threshold(p, { 2, 2 }, 0.7)),  "00 11"); // 0.7f is less than 0.7, and still kept
    CHECK_EQ(bits(select_by_threshold(p, { 2, 2 }, 0.7f)), "00 11");
    CHECK_EQ(bits(select_by_threshold(p, { 2, 2 }, 0)),    "00 00");
    CHECK_EQ(bits(select_by_threshold(p, { 2, 2 }, -5)),   "00 00");
    CHECK_EQ(bits(select_by_threshold(p, { 2, 2 }, 1)),    "10 11");
    CHECK_EQ(bits(select_by_threshold(p, { 2, 2 }, 1e300)), "11 11");
    CHECK_THROWS(select_by_threshold(p, { 2, 2 }, NAN), gate_error, "threshold is NaN");
}

static void test_shapes() {
    gate_pattern p;
    p.n_layer   = 32;
    p.n_head_kv = 8;
    p.gates.assign(32 * 8, 1.0f);
    p.source = "p.tsv";
    CHECK_THROWS(select_by_sparsity(p, std::vector<int32_t>(30, 3), 0.5), gate_error, "p.tsv: the pattern has 32 layers x 8 KV heads, the model 30 x 3. Use a pattern");
    CHECK_THROWS(select_by_threshold(p, std::vector<int32_t>(32, 4), 0.5), gate_error,
                 "the pattern has 32 layers x 8 KV heads, the model 32 x 4; layer 0 has 8 in the pattern and 4 in the model");
    CHECK_THROWS(select_by_sparsity(p, {}, 1), gate_error, "the model 0 x 0");

    // layers that differ
    const gate_pattern q = parse("{\"llamaDuoPattern\":1,\"layers\":3,\"kvHeads\":2,\"gates\":[[0.9,0.1],[0.2],[]]}");
    CHECK_EQ(bits(select_by_sparsity(q, { 2, 1, 0 }, 0.5)), "01 0 ");
    CHECK_EQ(bits(select_by_sparsity(q, { 2, 1, 0 }, 0.6)), "01 1 ");
    CHECK_EQ(bits(select_by_threshold(q, { 2, 1, 0 }, 0.15)), "01 0 ");
    CHECK_THROWS(select_by_sparsity(q, { 2, 2, 0 }, 0.5), gate_shape_error, "the pattern has 3 layers x 0 to 2 KV heads, the model 3 x 0 to 2; layer 1 has 1 in the pattern and 2 in the model");
    try {
        select_by_sparsity(q, { 2, 2, 0 }, 0.5);
    } catch (const gate_shape_error & e) {
        CHECK(e.pattern == std::vector<int32_t>({ 2, 1, 0 }));
        CHECK(e.model == std::vector<int32_t>({ 2, 2, 0 }));
    }

    const head_selection all = select_all({ 2, 0, 3 }, true);
    CHECK_EQ(all.n_layer, 3);
    CHECK_EQ(all.n_streaming(), 5u);
    CHECK_EQ(all.n_retrieval(), 0u);
    CHECK_EQ(select_all({ 2, 0, 3 }, false).n_retrieval(), 5u);

    p.gates[7] = NAN; // not from the parser
    CHECK_THROWS(select_by_sparsity(p, std::vector<int32_t>(32, 8), 0.5), gate_error, "gates[0][7]");
}

// ---------------------------------------------------------------------------------------------------------------------
// Anything at all
// ---------------------------------------------------------------------------------------------------------------------

// Mutated text is read or refused with a gate_error whose message is one line; whatever is read is a sound pattern that round-trips.
static void test_fuzz() {
    std::mt19937 seed_rng(4);
    std::mt19937 rng(5);
    gate_pattern p = random_pattern(seed_rng, 4, 3);
    p.sink = 128;
    p.provenance = "{\"model\":\"caf\xC3\xA9\",\"deep\":[[[{\"a\":[1,-2,3.5e-7,null,true]}]]]}";
    const std::string bases[] = { to_tsv(p), "0.5\t1\r\n0\t0.25", gate_pattern_to_json(p), "{\"llamaDuoPattern\":1,\"layers\":2,\"kvHeads\":2,\"gates\":[[1,0],[0.5]]}" };
    const std::string pieces[] = { "\t", "\n", "\r\n", " ", "0", "9", "-", "e", ".", ",", "nan", "1e999", std::string(1, '\0'), "\xFF", "\xC3", "\xEF\xBB\xBF",
                                   "\"", "\\", "\\u0000", "\\ud800", "{", "}", "[", "]", ":", "null", "true", "18446744073709551616", "1e-400", "\"sink\":", "\xE2\x82\xAC" };

    int n_read = 0, n_refused = 0;
    for (int round = 0; round < 40000; ++round) {
        std::string text = bases[rng() % std::size(bases)];
        for (uint32_t n = 1 + rng() % 4; n > 0; --n) {
            const size_t at = rng() % (text.size() + 1);
            switch (rng() % 5) {
                case 0: text.insert(at, pieces[rng() % std::size(pieces)]); break;
                case 1: text.erase(at, 1 + rng() % 8); break;
                case 2: text.resize(at); break;
                case 3: if (at < text.size()) { text[at] = char(rng()); } break;
                case 4: text.insert(at, text.substr(rng() % (text.size() + 1), rng() % 32)); break;
            }
        }
        try {
            const gate_pattern q = parse_gate_pattern(text, "fuzz");
            check_gate_pattern(q);
            if (!same(parse(gate_pattern_to_json(q)), q)) {
                check::report(false, __FILE__, __LINE__, "round trip of fuzz round " + std::to_string(round));
            }
            n_read++;
        } catch (const gate_error & e) {
            const std::string what = e.what();
            if (what.rfind("fuzz, line ", 0) != 0 || what.find('\n') != std::string::npos || what.size() > 600) {
                check::report(false, __FILE__, __LINE__, "message of fuzz round " + std::to_string(round), what);
            }
            n_refused++;
        } catch (const std::exception & e) {
            check::report(false, __FILE__, __LINE__, "fuzz round " + std::to_string(round), e.what());
        }
    }
    std::cout << "fuzz, seed 5: " << n_read << " read, " << n_refused << " refused\n";
    CHECK(n_read > 1000);
    CHECK(n_refused > 1000);
}

// ---------------------------------------------------------------------------------------------------------------------
// The published patterns
// ---------------------------------------------------------------------------------------------------------------------

static void test_published(const fs::path & folder) {
    static const struct { const char * path; int32_t n_head_kv; int n_one, n_negative, n_zero; double mean; } published[] = {
        { "Llama-2-7B-32K-Instruct/lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10",             32, 145, 274, 0, 0.419 },
        { "Llama-3-8B-Instruct-Gradient-1048k/lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10",   8,  82,  18, 0, 0.769 },
        { "Llama-3-8B-Instruct-Gradient-4194k/lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10",   8,  80,  15, 0, 0.775 },
        { "Meta-Llama-3.1-8B-Instruct/lr=0.02-reg=0.05-ctx=1000_128000-multi_passkey10",          8,  57,   0, 7, 0.852 },
        { "Mistral-7B-Instruct-v0.2/lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10",             8, 110,   5, 0, 0.923 },
        { "Mistral-7B-Instruct-v0.3/lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10",             8, 107,   8, 0, 0.905 },
    };
    for (const auto & expected : published) {
        const gate_pattern p = load_gate_pattern((folder / expected.path).string());
        const auto n = int32_t(p.gates.size());
        CHECK_EQ(p.n_layer, 32);
        CHECK_EQ(p.n_head_kv, expected.n_head_kv);
        CHECK_EQ(p.sink, 128);
        CHECK_EQ(p.recent, 256);
        CHECK_EQ(std::count(p.gates.begin(), p.gates.end(), 1.0f), expected.n_one);
        CHECK_EQ(std::count(p.gates.begin(), p.gates.end(), 0.0f), expected.n_negative + expected.n_zero);
        CHECK_NEAR(std::accumulate(p.gates.begin(), p.gates.end(), 0.0) / n, expected.mean, 6e-4);
        CHECK(p.provenance.find("\"maxLength\":") != std::string::npos);
        CHECK(same(parse(gate_pattern_to_json(p)), p));

        for (const double sparsity : { 0.25, 0.5, 0.75 }) {
            const head_selection s = select_by_sparsity(p, heads_of(p), sparsity);
            CHECK_EQ(s.n_streaming(), uint32_t(std::ceil((n - 1) * sparsity)));

            // with numpy's rule heads strictly on either side of the threshold are certain; only those on it are up to the tie rule
            const double threshold = quantile(p.gates, sparsity);
            bool agrees = true;
            for (int32_t il = 0; il < p.n_layer; ++il) {
                for (int32_t ih = 0; ih < p.n_head_kv; ++ih) {
                    const double gate = p.at(il, ih);
                    agrees = agrees && (gate == threshold || bool(s.streaming[il][ih]) == (gate < threshold));
                }
            }
            CHECK(agrees);
        }
    }
}

int main(int argc, char ** argv) {
    test_tsv();
    test_tsv_errors();
    test_json();
    test_json_errors();
    test_windows();
    test_json_round_trip();
    test_files();
    test_locale();
    test_sparsity();
    test_ties();
    test_threshold();
    test_shapes();
    test_fuzz();

    const char * given  = argc > 1 ? argv[1] : std::getenv("LLAMA_DUO_PATTERNS");
    const fs::path folder = given ? given : "";
    if (given && fs::is_directory(folder)) {
        test_published(folder);
    } else {
        std::cout << "skipped: the published patterns (give their folder as the argument or in LLAMA_DUO_PATTERNS)\n";
    }
    return check::result();
}
