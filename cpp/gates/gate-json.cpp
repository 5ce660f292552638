// This project's JSON form of a gate pattern, and the few keys of DuoAttention's config.json that matter.

// Every value knows where in the text it stood, for messages. The library keeps such a build of itself apart by an inline namespace.
#define JSON_DIAGNOSTIC_POSITIONS 1
#include <nlohmann/json.hpp>

#include "gate-text.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <vector>

using nlohmann::json;

namespace duo {

namespace {

constexpr int32_t newest_version = 2;
constexpr int32_t largest_size   = std::numeric_limits<int32_t>::max();

// Where the parser stopped. Only a second, event-driven pass tells this for every kind of error.
struct syntax_error : json::json_sax_t {
    size_t      offset = 0;
    std::string reason;

    bool parse_error(size_t position, const std::string & token, const json::exception & error) override {
        constexpr int number_overflow = 406;
        offset = position - std::min(position, error.id == number_overflow ? token.size() : 1);

        // without the library's own tag and position
        const std::string what = error.what();
        const size_t      from = what.find("syntax error") != std::string::npos ? what.find("syntax error") : what.find("] ") + 2;
        reason = excerpt(what.substr(from), 200); // it repeats the token that it stumbled over, however long
        return false;
    }

    bool null()                                         override { return true; }
    bool boolean(bool)                                  override { return true; }
    bool number_integer(int64_t)                        override { return true; }
    bool number_unsigned(uint64_t)                      override { return true; }
    bool number_float(double, const std::string &)      override { return true; }
    bool string(std::string &)                          override { return true; }
    bool binary(json::binary_t &)                       override { return true; }
    bool start_object(size_t)                           override { return true; }
    bool key(std::string &)                             override { return true; }
    bool end_object()                                   override { return true; }
    bool start_array(size_t)                            override { return true; }
    bool end_array()                                    override { return true; }
};

// A JSON object and where its parts stand.
struct json_text {
    const gate_text &             in;
    json                          root;
    std::map<std::string, size_t> keys; // top-level keys as written, offset of the opening quote

    explicit json_text(const gate_text & in) : in(in) {
        scan();
        root = json::parse(in.text, nullptr, false);
        if (root.is_discarded()) {
            syntax_error error;
            json::sax_parse(in.text, &error);
            in.fail(error.offset, "not valid JSON: " + error.reason);
        }
        if (!root.is_object()) {
            in.fail(0, "expected a JSON object, found " + describe(root));
        }
    }

    [[noreturn]] void fail(const json & at, const std::string & problem) const { in.fail(offset(at), problem); }

    // The value as it was written, for messages.
    std::string describe(const json & value) const {
        switch (value.type()) {
            case json::value_t::object: return "an object";
            case json::value_t::array:  return "an array";
            default:                    return excerpt(in.text.substr(offset(value), value.end_pos() - offset(value)));
        }
    }

    const json & required(const std::string & key, const std::string & what) const {
        if (!root.contains(key)) {
            fail(root, "there is no \"" + key + "\"; expected " + what + ". Add it");
        }
        return root[key];
    }

    int32_t integer(const std::string & key, int32_t low, int32_t high) const { return integer(root.at(key), '"' + key + '"', low, high); }

    int32_t integer(const json & value, const std::string & name, int32_t low, int32_t high) const {
        if (!value.is_number_integer() || value < low || value > high) {
            fail(value, name + " is " + describe(value) + "; expected a whole number from " + std::to_string(low) + " to " + std::to_string(high));
        }
        return value.get<int32_t>();
    }

    // Throws unless it is an array of n; of what, and why so many, in words.
    void check_array(const json & value, const std::string & name, size_t n, const std::string & of, const std::string & why) const {
        if (!value.is_array() || value.size() != n) {
            fail(value, name + " is " + describe(value) + (value.is_array() ? " of " + std::to_string(value.size()) : "") + "; expected an array of " +
                 std::to_string(n) + " " + of + ", because " + why);
        }
    }

private:
    // What the parser must not meet or does not tell: where a text stops being UTF-8; NUL, which it takes for the end; nesting that would exhaust the stack when printed again; a
    // key given twice, of which it would keep the last; where keys stand.
    void scan() {
        constexpr int deepest = 64;
        const std::string_view text = in.text;
        if (const size_t bad = find_not_utf8(text); bad != std::string_view::npos) {
            in.fail(bad, "the byte " + printable(text.substr(bad, 1)) + " is not UTF-8; expected a UTF-8 text. Save the file as UTF-8");
        }
        int  depth = 0;
        bool ended = false;
        for (size_t i = 0; i < text.size(); ++i) {
            const char c = text[i];
            if (c == '\0') {
                in.fail(i, "a NUL byte; expected plain text. Save the file as UTF-8 (this may be UTF-16 or a binary file)");
            } else if (c == '{' || c == '[') {
                if (++depth > deepest) {
                    in.fail(i, "nested more than " + std::to_string(deepest) + " deep; a gate pattern needs 3 levels");
                }
            } else if (c == '}' || c == ']') {
                ended = --depth <= 0;
            } else if (c == '"') {
                const size_t open = i++;
                while (i < text.size() && text[i] != '"') {
                    i += text[i] == '\\' ? 2 : 1;
                }
                const size_t after = text.find_first_not_of(" \t\r\n", i + 1);
                if (depth == 1 && !ended && after != std::string_view::npos && text[after] == ':') {
                    const std::string key(text.substr(open + 1, i - open - 1));
                    if (!keys.emplace(key, open).second) {
                        in.fail(open, "the key \"" + excerpt(key) + "\" is there twice; expected it once. Remove one");
                    }
                }
            }
        }
    }

    // Where a value starts. The library puts the start of a string with escapes too late, but its end is right, and the opening quote is the
    // first from there back that no backslash precedes.
    size_t offset(const json & value) const {
        size_t start = value.start_pos();
        if (value.is_string()) {
            start = value.end_pos() - 2;
            while (start > 0 && (in.text[start] != '"' || in.text[start - 1] == '\\')) {
                --start;
            }
        }
        return start;
    }
};

// Returns it.
int32_t check_version(const json_text & doc) {
    const json & version = doc.required("llamaDuoPattern", "the version of this format, 1 or 2");
    if (!version.is_number_integer() || version < 1 || version > newest_version) {
        doc.fail(version, "\"llamaDuoPattern\" is " + doc.describe(version) + "; this build reads versions 1 and 2"
                 ". Write the pattern in one of these, or update llama-duo if the file is from a newer one");
    }
    return version.get<int32_t>();
}

void check_keys(const json_text & doc, int32_t version) {
    static const std::vector<std::string> known = { "llamaDuoPattern", "layers", "kvHeads", "sink", "recent", "gates", "provenance" };
    static const std::vector<std::string> since_2 = { "windows", "sinks", "losses", "cacheTypes" };
    const auto among = [](const std::vector<std::string> & keys, const std::string & key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); };
    for (const auto & [key, value] : doc.root.items()) {
        if (among(known, key) || (version >= 2 && among(since_2, key))) {
            continue;
        }
        const auto   it = doc.keys.find(key);
        const size_t at = it == doc.keys.end() ? value.start_pos() : it->second; // a key written with escapes is not in the map
        if (among(since_2, key)) {
            doc.in.fail(at, "the key \"" + key + "\" is one of version 2, and \"llamaDuoPattern\" is " + std::to_string(version) + ". Write 2 there, or remove the key");
        }
        doc.in.fail(at, "unknown key \"" + excerpt(key) + "\"; expected llamaDuoPattern, layers, kvHeads, sink, recent, gates or provenance" +
                    (version >= 2 ? ", windows, sinks, losses or cacheTypes" : "") + ". Remove it, or put it into provenance");
    }
}

void read_gates(const json_text & doc, gate_pattern & pattern) {
    const json & rows = doc.required("gates", "an array with one array of numbers a layer");
    doc.check_array(rows, "\"gates\"", size_t(pattern.n_layer), "rows", "\"layers\" is " + std::to_string(pattern.n_layer));

    pattern.gates.assign(size_t(pattern.n_layer) * pattern.n_head_kv, 0.0f);
    int32_t widest = 0;
    bool    even   = true;
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        const std::string name = "gates[" + std::to_string(il) + "]";
        const json &      row  = rows[il];
        if (!row.is_array()) {
            doc.fail(row, name + " is " + doc.describe(row) + "; expected an array of numbers, one a KV head of layer " + std::to_string(il));
        }
        if (row.size() > size_t(pattern.n_head_kv)) {
            doc.fail(row[pattern.n_head_kv], name + " has " + std::to_string(row.size()) + " gates; expected at most " + std::to_string(pattern.n_head_kv) +
                     ", because \"kvHeads\" is " + std::to_string(pattern.n_head_kv));
        }
        for (size_t ih = 0; ih < row.size(); ++ih) {
            float gate = 0;
            if (!row[ih].is_number() || !clip_gate(row[ih].get<double>(), gate)) {
                doc.fail(row[ih], name + "[" + std::to_string(ih) + "] is " + doc.describe(row[ih]) + "; expected a number from 0 to 1");
            }
            pattern.gates[size_t(il) * pattern.n_head_kv + ih] = gate;
        }
        pattern.n_head_layer.push_back(int32_t(row.size()));
        widest = std::max(widest, pattern.n_head_layer.back());
        even   = even && pattern.n_head_layer.back() == pattern.n_head_kv;
    }
    if (widest != pattern.n_head_kv) {
        doc.fail(doc.root["kvHeads"], "\"kvHeads\" is " + std::to_string(pattern.n_head_kv) + ", but the widest row of \"gates\" has " + std::to_string(widest) +
                 "; expected the two to be the same");
    }
    if (even) {
        pattern.n_head_layer.clear();
    }
}

// Calls read(value, its name, the head's place in gates) for each head of a value of the shape of "gates".
template <typename F>
void for_each_head(const json_text & doc, const gate_pattern & pattern, const json & rows, const std::string & name, F read) {
    doc.check_array(rows, name, size_t(pattern.n_layer), "rows", "\"layers\" is " + std::to_string(pattern.n_layer));
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        const std::string row = name + "[" + std::to_string(il) + "]";
        doc.check_array(rows[il], row, size_t(pattern.n_head(il)), "values", "gates[" + std::to_string(il) + "] has as many");
        for (int32_t ih = 0; ih < pattern.n_head(il); ++ih) {
            read(rows[il][ih], row + "[" + std::to_string(ih) + "]", size_t(il) * pattern.n_head_kv + ih);
        }
    }
}

void read_losses(const json_text & doc, gate_pattern & pattern) {
    const json & losses = doc.root["losses"];
    if (!losses.is_object() || losses.size() != 2 || !losses.contains("windows") || !losses.contains("heads")) {
        doc.fail(losses, "\"losses\" is " + doc.describe(losses) + "; expected an object with \"windows\" and \"heads\" and nothing else");
    }
    const json & windows = losses["windows"];
    if (!windows.is_array() || windows.empty() || windows.size() > max_loss_windows) {
        doc.fail(windows, "losses.windows is " + doc.describe(windows) + (windows.is_array() ? " of " + std::to_string(windows.size()) : "") +
                 "; expected an array of 1 to " + std::to_string(max_loss_windows) + " windows");
    }
    for (size_t i = 0; i < windows.size(); ++i) {
        const int32_t least = i == 0 ? 0 : pattern.loss_windows.back() + 1; // they rise
        pattern.loss_windows.push_back(doc.integer(windows[i], "losses.windows[" + std::to_string(i) + "]", least, max_gate_window));
    }
    const size_t n = pattern.loss_windows.size();
    pattern.losses.assign(pattern.gates.size() * n, 0.0f);
    for_each_head(doc, pattern, losses["heads"], "losses.heads", [&](const json & value, const std::string & name, size_t head) {
        doc.check_array(value, name, n, "losses", "losses.windows has as many");
        for (size_t i = 0; i < n; ++i) {
            const float loss = value[i].is_number() ? value[i].get<float>() : NAN;
            if (!std::isfinite(loss)) {
                doc.fail(value[i], name + "[" + std::to_string(i) + "] is " + doc.describe(value[i]) + "; expected a number");
            }
            pattern.losses[head * n + i] = loss;
        }
    });
}

// An object of these two keys and n_more others.
cache_type_loss read_type_loss(const json_text & doc, const json & value, const std::string & name, const std::string & type, size_t n_more, const std::string & more) {
    const auto number = [&](const char * key, double most) {
        const bool known = value.is_object() && value.size() == 2 + n_more && value.contains(key) && value[key].is_number();
        const float x = known ? value[key].get<float>() : NAN;
        if (!(x >= 0 && x <= most)) {
            doc.fail(value, name + " is " + doc.describe(value) + "; expected { \"loss\": a number of at least 0, \"correct\": a number from 0 to 1" + more + " }");
        }
        return x;
    };
    return { type, number("loss", std::numeric_limits<float>::max()), number("correct", 1) };
}

// The same type with some layers' rows of a finer one, a few times.
void read_finer(const json_text & doc, const json & value, const std::string & name, const std::string & type, int32_t n_layer, std::vector<cache_type_loss> & losses) {
    if (!value.is_array() || value.empty() || value.size() > max_loss_types) {
        doc.fail(value, name + " is " + doc.describe(value) + "; expected an array of 1 to " + std::to_string(max_loss_types) + " objects");
    }
    for (size_t i = 0; i < value.size(); ++i) {
        const std::string at = name + "[" + std::to_string(i) + "]";
        const std::string keys = ", \"type\": the name of a cache type, \"layers\": an array of the layers whose rows are of it";
        cache_type_loss l = read_type_loss(doc, value[i], at, type, 2, keys);
        const bool named = value[i].contains("type") && value[i]["type"].is_string() && value[i].contains("layers");
        const json & layers = named ? value[i]["layers"] : value[i];
        if (!named || !layers.is_array() || layers.empty()) {
            doc.fail(value[i], at + " is " + doc.describe(value[i]) + "; expected { \"loss\", \"correct\"" + keys + " }");
        }
        l.finer = value[i]["type"].get<std::string>();
        for (size_t j = 0; j < layers.size(); ++j) {
            l.finer_layers.push_back(doc.integer(layers[j], at + ".layers[" + std::to_string(j) + "]", 0, n_layer - 1));
            if (j > 0 && l.finer_layers[j] <= l.finer_layers[j - 1]) {
                doc.fail(layers[j], at + ".layers[" + std::to_string(j) + "] is " + doc.describe(layers[j]) + "; expected layers that rise, and " + std::to_string(l.finer_layers[j - 1]) + " is before it");
            }
        }
        losses.push_back(std::move(l));
    }
}

// n_layer: 0 where no layers of a finer type are expected.
std::vector<cache_type_loss> read_type_losses(const json_text & doc, const json & types, const std::string & name, int32_t n_layer) {
    if (!types.is_object() || !types.contains("f16") || types.size() > max_loss_types) {
        doc.fail(types, name + " is " + doc.describe(types) + "; expected an object with \"f16\" and other cache types, at most " + std::to_string(max_loss_types));
    }
    std::vector<cache_type_loss> losses;
    for (const auto & [type, value] : types.items()) {
        const bool mixed = n_layer > 0 && type != "f16" && value.is_object() && value.contains("finer"); // nothing is finer than what others are compared with
        losses.push_back(read_type_loss(doc, value, name + "." + excerpt(type), type, mixed, ""));
        if (mixed) {
            read_finer(doc, value["finer"], name + "." + excerpt(type) + ".finer", type, n_layer, losses);
        }
    }
    if (losses.size() > max_loss_types) {
        doc.fail(types, name + " has " + std::to_string(losses.size()) + " losses; expected at most " + std::to_string(max_loss_types));
    }
    // f16 is what the others are compared with, so it comes first; the others as their losses rise
    std::sort(losses.begin(), losses.end(), [](const cache_type_loss & a, const cache_type_loss & b) {
        return std::make_tuple(a.type != "f16", a.loss, a.type, a.finer_layers) < std::make_tuple(b.type != "f16", b.loss, b.type, b.finer_layers);
    });
    return losses;
}

// What version 2 adds.
void read_windows(const json_text & doc, gate_pattern & pattern) {
    if (doc.root.contains("windows")) {
        pattern.windows.assign(pattern.gates.size(), 0);
        for_each_head(doc, pattern, doc.root["windows"], "windows", [&](const json & value, const std::string & name, size_t head) {
            pattern.windows[head] = doc.integer(value, name, 0, max_gate_window);
        });
    }
    if (doc.root.contains("sinks")) {
        const json & sinks = doc.root["sinks"];
        doc.check_array(sinks, "\"sinks\"", size_t(pattern.n_layer), "numbers", "\"layers\" is " + std::to_string(pattern.n_layer));
        for (size_t il = 0; il < sinks.size(); ++il) {
            pattern.sinks.push_back(doc.integer(sinks[il], "sinks[" + std::to_string(il) + "]", 0, max_gate_window));
        }
    }
    if (doc.root.contains("losses")) {
        read_losses(doc, pattern);
    }
    if (doc.root.contains("cacheTypes")) {
        const json & types = doc.root["cacheTypes"];
        if (!types.is_object() || types.size() != 2 || !types.contains("k") || !types.contains("v")) {
            doc.fail(types, "\"cacheTypes\" is " + doc.describe(types) + "; expected an object with \"k\" and \"v\" and nothing else");
        }
        pattern.k_types = read_type_losses(doc, types["k"], "cacheTypes.k", pattern.n_layer);
        pattern.v_types = read_type_losses(doc, types["v"], "cacheTypes.v", 0);
    }
}

} // namespace

gate_pattern parse_gate_json(const gate_text & in) {
    const json_text doc(in);
    check_keys(doc, check_version(doc)); // the version first: a newer one may well have other keys

    gate_pattern pattern;
    doc.required("layers",  "the number of layers");
    doc.required("kvHeads", "the number of KV heads of the widest layer");
    pattern.n_layer   = doc.integer("layers",  1, max_gate_layers);
    pattern.n_head_kv = doc.integer("kvHeads", 1, max_gate_heads);
    if (doc.root.contains("sink")) {
        pattern.sink = doc.integer("sink", 0, largest_size);
    }
    if (doc.root.contains("recent")) {
        pattern.recent = doc.integer("recent", 0, largest_size);
    }
    if (doc.root.contains("provenance")) {
        const json & provenance = doc.root["provenance"];
        if (!provenance.is_object()) {
            doc.fail(provenance, "\"provenance\" is " + doc.describe(provenance) + "; expected an object");
        }
        pattern.provenance = provenance.dump();
    }
    read_gates(doc, pattern);
    read_windows(doc, pattern);
    return pattern;
}

void read_duo_attention_config(const gate_text & in, gate_pattern & pattern) {
    const json_text doc(in);

    // Python's null stands for an option that was not given
    const auto given = [&](const char * key) { return doc.root.contains(key) && !doc.root[key].is_null(); };
    if (given("sink_size")) {
        pattern.sink = doc.integer("sink_size", 0, largest_size);
    }
    if (given("recent_size")) {
        pattern.recent = doc.integer("recent_size", 0, largest_size);
    }

    json provenance = { { "method", "duo-attention" } };
    static const std::pair<const char *, const char *> kept[] = {
        { "model_name", "model" }, { "dataset_format", "data" }, { "max_length", "maxLength" }, { "num_steps", "steps" },
        { "lr", "lr" }, { "reg_weight", "regWeight" }, { "seed", "seed" },
    };
    for (const auto & [theirs, ours] : kept) {
        if (given(theirs) && doc.root[theirs].is_primitive()) {
            provenance[ours] = doc.root[theirs];
        }
    }
    pattern.provenance = provenance.dump();
}

std::string gate_pattern_to_json(const gate_pattern & pattern) {
    check_gate_pattern(pattern);

    // The library prints the fewest digits that give the same float again, in every locale. Built on double it would print 0.1f as 0.10000000149011612.
    using json_f32 = nlohmann::basic_json<std::map, std::vector, std::string, bool, int64_t, uint64_t, float>;

    std::string out = "{\n";
    const auto line = [&](const char * key, const std::string & value) {
        out += std::string(out == "{\n" ? "" : ",\n") + "  \"" + key + "\": " + value;
    };
    const bool has_windows = !pattern.windows.empty() || !pattern.sinks.empty() || !pattern.loss_windows.empty() || !pattern.k_types.empty();
    line("llamaDuoPattern", has_windows ? "2" : "1");
    line("layers",          std::to_string(pattern.n_layer));
    line("kvHeads",         std::to_string(pattern.n_head_kv));
    if (pattern.sink >= 0) {
        line("sink", std::to_string(pattern.sink));
    }
    if (pattern.recent >= 0) {
        line("recent", std::to_string(pattern.recent));
    }

    const auto list = [](size_t n, const std::function<std::string(size_t i)> & item) {
        std::string text = "[";
        for (size_t i = 0; i < n; ++i) {
            text += (i == 0 ? "" : ", ") + item(i);
        }
        return text + "]";
    };
    const auto rows = [&](const std::string & indent, const std::function<std::string(int32_t il, int32_t ih)> & item) { // a layer a line
        std::string text = "[";
        for (int32_t il = 0; il < pattern.n_layer; ++il) {
            text += (il == 0 ? "\n" : ",\n") + indent + "  " + list(size_t(pattern.n_head(il)), [&](size_t ih) { return item(il, int32_t(ih)); });
        }
        return text + "\n" + indent + "]";
    };
    line("gates", rows("  ", [&](int32_t il, int32_t ih) { return json_f32(pattern.at(il, ih)).dump(); }));
    if (!pattern.windows.empty()) {
        line("windows", rows("  ", [&](int32_t il, int32_t ih) { return std::to_string(pattern.window(il, ih)); }));
    }
    if (!pattern.sinks.empty()) {
        line("sinks", list(pattern.sinks.size(), [&](size_t il) { return std::to_string(pattern.sinks[il]); }));
    }
    if (const size_t n = pattern.loss_windows.size()) {
        line("losses", "{\n    \"windows\": " + list(n, [&](size_t i) { return std::to_string(pattern.loss_windows[i]); }) + ",\n    \"heads\": " +
             rows("    ", [&](int32_t il, int32_t ih) { return list(n, [&](size_t i) { return json_f32(pattern.loss(il, ih, i)).dump(); }); }) + "\n  }");
    }

    if (!pattern.k_types.empty()) {
        const auto types = [&](const std::vector<cache_type_loss> & losses) {
            const auto measured = [&](const cache_type_loss & l) { return "\"loss\": " + json_f32(l.loss).dump() + ", \"correct\": " + json_f32(l.correct).dump(); };
            std::string text;
            for (const cache_type_loss & l : losses) {
                if (!l.finer_layers.empty()) {
                    continue;
                }
                std::string finer;
                for (const cache_type_loss & m : losses) {
                    if (m.type == l.type && !m.finer_layers.empty()) {
                        finer += (finer.empty() ? ", \"finer\": [" : ", ") + ("{ \"type\": " + json(m.finer).dump()) + ", \"layers\": " + json(m.finer_layers).dump() + ", " + measured(m) + " }";
                    }
                }
                text += (text.empty() ? "{ " : ", ") + json(l.type).dump() + ": { " + measured(l) + finer + (finer.empty() ? "" : "]") + " }";
            }
            return text + " }";
        };
        line("cacheTypes", "{\n    \"k\": " + types(pattern.k_types) + ",\n    \"v\": " + types(pattern.v_types) + "\n  }");
    }

    if (!pattern.provenance.empty()) {
        const auto provenance = json::parse(pattern.provenance, nullptr, false);
        if (!provenance.is_object()) {
            throw gate_error(printable(pattern.source) + ": the provenance " + excerpt(pattern.provenance) + " is not a JSON object");
        }
        line("provenance", provenance.dump());
    }
    return out + "\n}\n";
}

} // namespace duo
