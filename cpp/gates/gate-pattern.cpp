#include "gate-gguf.h"
#include "gate-text.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

namespace fs = std::filesystem;

namespace duo {

// ---------------------------------------------------------------------------------------------------------------------
// Text
// ---------------------------------------------------------------------------------------------------------------------

static std::string too_large(const std::string & source, const std::string & size) {
    return printable(source) + ": " + size + "; expected a gate pattern of at most " + std::to_string(max_gate_text / 1024 / 1024) +
           " MiB. Check that this is a gate pattern and not a model";
}

// What both forms of text have in common.
static void check_encoding(const gate_text & in) {
    const auto starts_with = [&](std::string_view prefix) { return in.text.substr(0, prefix.size()) == prefix; };
    if (starts_with("\xEF\xBB\xBF")) {
        in.fail(0, "the text starts with a UTF-8 byte order mark; expected plain UTF-8. Save the file without it");
    }
    if (starts_with("\xFF\xFE") || starts_with("\xFE\xFF")) {
        in.fail(0, "the text starts with a UTF-16 byte order mark; expected plain UTF-8. Save the file as UTF-8");
    }
}

gate_pattern parse_gate_pattern(std::string_view text, const std::string & source) {
    const gate_text in = { text, source };
    if (text.size() > max_gate_text) {
        throw gate_error(too_large(source, std::to_string(text.size()) + " bytes"));
    }
    check_encoding(in);

    const size_t first = text.find_first_not_of(" \t\r\n");
    if (first == std::string_view::npos) {
        in.fail(0, "there is no text; expected a gate pattern: a row of tab-separated numbers a layer, or JSON. Check that the file was written in full");
    }
    gate_pattern pattern = text[first] == '{' ? parse_gate_json(in) : parse_gate_tsv(in);
    pattern.source = source;
    return pattern;
}

// ---------------------------------------------------------------------------------------------------------------------
// Files
// ---------------------------------------------------------------------------------------------------------------------

static std::string read_file(const fs::path & path) {
    const std::string name = path.u8string();
    if (!fs::is_regular_file(path)) {
        throw gate_error(printable(name) + ": not a file or folder; expected a DuoAttention folder, a TSV, a JSON or a GGUF file. Check the path");
    }
    // the size is asked first, so that nothing huge is read; and read no further than that, in case the file grows
    const uintmax_t size = fs::file_size(path);
    if (size > max_gate_text) {
        throw gate_error(too_large(name, std::to_string(size) + " bytes"));
    }
    std::ifstream file(path, std::ios::binary);
    std::string   text(size_t(size), '\0');
    file.read(&text[0], std::streamsize(size));
    if (!file && !file.eof()) {
        throw gate_error(printable(name) + ": cannot be read. Check its permissions");
    }
    text.resize(size_t(file.gcount()));
    return text;
}

// full_attention_heads.tsv in the folder itself, or in a folder inside it: the published patterns are <model>/<setting>/.
static gate_pattern load_folder(const fs::path & folder) {
    static const char * const gates_name = "full_attention_heads.tsv";

    const fs::path gates = folder / gates_name;
    if (!fs::exists(gates)) {
        std::string hint;
        for (const auto & entry : fs::directory_iterator(folder)) {
            if (fs::exists(entry.path() / gates_name)) {
                hint = " Did you mean " + printable(entry.path().u8string()) + "?";
            }
        }
        throw gate_error(printable(folder.u8string()) + ": this folder has no " + gates_name + "; expected a DuoAttention pattern." +
                         (hint.empty() ? " Give the folder that holds one, or a TSV or JSON file." : hint));
    }
    gate_pattern pattern = parse_gate_pattern(read_file(gates), gates.u8string());

    const fs::path config = folder / "config.json";
    if (fs::exists(config)) {
        const std::string text = read_file(config);
        const std::string name = config.u8string();
        const gate_text   in   = { text, name };
        check_encoding(in);
        read_duo_attention_config(in, pattern);
    }
    return pattern;
}

gate_pattern load_gate_pattern(const std::string & path) {
    try {
        const fs::path where = fs::u8path(path);
        if (!fs::exists(where)) {
            throw gate_error(printable(path) + ": no such file or folder; expected a DuoAttention folder, a TSV, a JSON or a GGUF file. Check the path");
        }
        gate_pattern pattern = fs::is_directory(where) ? load_folder(where) : is_gguf(path) ? read_gguf_pattern(path) : parse_gate_pattern(read_file(where), path);
        pattern.source = path;
        return pattern;
    } catch (const fs::filesystem_error & e) { // no permission, a loop of links, a name too long
        throw gate_error(printable(path) + ": cannot be read: " + e.code().message() + ". Check the path and its permissions");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Patterns made elsewhere
// ---------------------------------------------------------------------------------------------------------------------

const cache_type_loss * find_type(const std::vector<cache_type_loss> & types, const std::string & type) {
    const auto it = std::find_if(types.begin(), types.end(), [&](const cache_type_loss & l) { return l.type == type && l.finer_layers.empty(); });
    return it == types.end() ? nullptr : &*it;
}

static void check_cache_types(const std::vector<cache_type_loss> & types, const std::string & name, int32_t n_layer, const std::function<void(const std::string & problem)> & fail) {
    if (types.size() > max_loss_types || (!types.empty() && types[0].type != "f16")) {
        fail(name + " has " + std::to_string(types.size()) + " types; expected at most " + std::to_string(max_loss_types) + ", the first of them f16");
    }
    for (const cache_type_loss & l : types) {
        if (l.finer.empty() != l.finer_layers.empty() || !find_type(types, l.type) || (l.type == "f16" && !l.finer.empty())) {
            fail(name + "." + printable(l.type) + " has " + (l.finer.empty() ? "no" : "a") + " finer type for " + std::to_string(l.finer_layers.size()) + " layers; expected both or neither, beside a loss of all layers alike, and none for f16");
        }
        const bool rising = std::adjacent_find(l.finer_layers.begin(), l.finer_layers.end(), std::greater_equal<>()) == l.finer_layers.end();
        if (!rising || (!l.finer_layers.empty() && (l.finer_layers.front() < 0 || l.finer_layers.back() >= n_layer))) {
            fail(name + "." + printable(l.type) + " has finer layers that don't rise from 0 to " + std::to_string(n_layer - 1));
        }
        if (!std::isfinite(l.loss) || l.loss < 0 || !(l.correct >= 0 && l.correct <= 1)) {
            fail(name + "." + printable(l.type) + " has a loss of " + std::to_string(l.loss) + " with " + std::to_string(l.correct) + " correct; expected at least 0, and 0 to 1");
        }
    }
}

static void check_windows(const gate_pattern & pattern, const std::function<void(const std::string & problem)> & fail) {
    const size_t n_head = size_t(pattern.n_layer) * pattern.n_head_kv;
    const auto check_size = [&](const char * name, size_t size, size_t expected) {
        if (size != 0 && size != expected) {
            fail("there are " + std::to_string(size) + " " + name + "; expected " + std::to_string(expected) + ", or none");
        }
    };
    const auto check_window = [&](const std::string & name, int32_t window, int32_t least) {
        if (window < least || window > max_gate_window) {
            fail(name + " is " + std::to_string(window) + "; expected a whole number from " + std::to_string(least) + " to " + std::to_string(max_gate_window));
        }
    };
    check_size("windows", pattern.windows.size(), n_head);
    check_size("sinks",   pattern.sinks.size(), size_t(pattern.n_layer));
    if (pattern.loss_windows.size() > max_loss_windows) {
        fail("losses were measured with " + std::to_string(pattern.loss_windows.size()) + " windows; expected at most " + std::to_string(max_loss_windows));
    }
    if (pattern.losses.size() != n_head * pattern.loss_windows.size()) {
        fail("there are " + std::to_string(pattern.losses.size()) + " losses; expected " + std::to_string(n_head) + " for each of " +
             std::to_string(pattern.loss_windows.size()) + " windows");
    }
    for (size_t i = 0; i < pattern.loss_windows.size(); ++i) {
        check_window("losses.windows[" + std::to_string(i) + "]", pattern.loss_windows[i], i == 0 ? 0 : pattern.loss_windows[i - 1] + 1);
    }
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        const std::string layer = "[" + std::to_string(il) + "]";
        if (!pattern.sinks.empty()) {
            check_window("sinks" + layer, pattern.sinks[il], 0);
        }
        for (int32_t ih = 0; ih < pattern.n_head(il); ++ih) {
            const std::string head = layer + "[" + std::to_string(ih) + "]";
            if (!pattern.windows.empty()) {
                check_window("windows" + head, pattern.window(il, ih), 0);
            }
            for (size_t i = 0; i < pattern.loss_windows.size(); ++i) {
                if (!std::isfinite(pattern.loss(il, ih, i))) {
                    fail("losses.heads" + head + "[" + std::to_string(i) + "] is " + std::to_string(pattern.loss(il, ih, i)) + "; expected a number");
                }
            }
        }
    }
}

void check_gate_pattern(const gate_pattern & pattern) {
    const auto fail = [&](const std::string & problem) { throw gate_error(printable(pattern.source) + ": " + problem); };

    if (pattern.n_layer < 1 || pattern.n_head_kv < 1) {
        fail("it has " + std::to_string(pattern.n_layer) + " layers x " + std::to_string(pattern.n_head_kv) + " KV heads; expected at least one of each");
    }
    const auto n_layer = size_t(pattern.n_layer);
    const auto n_head  = size_t(pattern.n_head_kv);
    if (pattern.gates.size() != n_layer * n_head) {
        fail("there are " + std::to_string(pattern.gates.size()) + " gates; expected " + std::to_string(n_layer) + " layers x " + std::to_string(n_head) + " KV heads");
    }
    if (!pattern.n_head_layer.empty() && pattern.n_head_layer.size() != n_layer) {
        fail("there are " + std::to_string(pattern.n_head_layer.size()) + " row lengths; expected " + std::to_string(n_layer) + ", one a layer");
    }
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        if (pattern.n_head(il) < 0 || pattern.n_head(il) > pattern.n_head_kv) {
            fail("layer " + std::to_string(il) + " has " + std::to_string(pattern.n_head(il)) + " KV heads; expected 0 to " + std::to_string(pattern.n_head_kv));
        }
        for (int32_t ih = 0; ih < pattern.n_head(il); ++ih) {
            if (!(pattern.at(il, ih) >= 0 && pattern.at(il, ih) <= 1)) {
                fail("gates[" + std::to_string(il) + "][" + std::to_string(ih) + "] is " + std::to_string(pattern.at(il, ih)) + "; expected a number from 0 to 1");
            }
        }
    }
    check_windows(pattern, fail);
    if (pattern.k_types.empty() != pattern.v_types.empty()) {
        fail("there are losses of cache types for K or for V alone; expected both, or none");
    }
    if (std::any_of(pattern.v_types.begin(), pattern.v_types.end(), [](const cache_type_loss & l) { return !l.finer_layers.empty(); })) {
        fail("cacheTypes.v has layers of a finer type; expected them in cacheTypes.k alone");
    }
    check_cache_types(pattern.k_types, "cacheTypes.k", pattern.n_layer, fail);
    check_cache_types(pattern.v_types, "cacheTypes.v", pattern.n_layer, fail);
}

} // namespace duo
