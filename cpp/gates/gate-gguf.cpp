#include "gate-gguf.h"

#include "gate-text.h"

#include "ggml-cpp.h"
#include "gguf.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

namespace fs = std::filesystem;

namespace duo {

bool is_gguf(const std::string & path) {
    if (!fs::is_regular_file(fs::u8path(path))) {
        return false; // opening a pipe waits for whoever writes to it
    }
    std::ifstream file(fs::u8path(path), std::ios::binary);
    char magic[4] = {};
    file.read(magic, sizeof(magic));
    return file && memcmp(magic, "GGUF", sizeof(magic)) == 0;
}

static gguf_context_ptr open_gguf(const std::string & path) {
    gguf_context_ptr gguf(gguf_init_from_file(path.c_str(), { /*.no_alloc =*/ true, /*.ctx =*/ nullptr }));
    if (!gguf) {
        throw gate_error(printable(path) + ": not a GGUF file that llama.cpp understands. Check that it was written in full");
    }
    return gguf;
}

gate_pattern read_gguf_pattern(const std::string & path) {
    const gguf_context_ptr gguf = open_gguf(path);
    const int64_t key = gguf_find_key(gguf.get(), gguf_pattern_key);
    if (key < 0 || gguf_get_kv_type(gguf.get(), key) != GGUF_TYPE_STRING) {
        throw gate_error(printable(path) + ": this model has no gates in it (no metadata key " + gguf_pattern_key + "). Embed a pattern, or name a pattern file");
    }
    return parse_gate_pattern(gguf_get_val_str(gguf.get(), key), path);
}

// A whole number of the model's metadata, or those of an array; empty where there is none.
static std::vector<int64_t> integers(const gguf_context * gguf, const std::string & name) {
    const int64_t key = gguf_find_key(gguf, name.c_str());
    if (key < 0) {
        return {};
    }
    switch (gguf_get_kv_type(gguf, key)) {
        case GGUF_TYPE_UINT16: return { gguf_get_val_u16(gguf, key) };
        case GGUF_TYPE_UINT32: return { gguf_get_val_u32(gguf, key) };
        case GGUF_TYPE_INT32:  return { gguf_get_val_i32(gguf, key) };
        case GGUF_TYPE_ARRAY: {
            const size_t    n    = gguf_get_arr_n(gguf, key);
            const gguf_type type = gguf_get_arr_type(gguf, key);
            if (type != GGUF_TYPE_UINT32 && type != GGUF_TYPE_INT32) {
                return {};
            }
            const int32_t * data = (const int32_t *) gguf_get_arr_data(gguf, key);
            return std::vector<int64_t>(data, data + n);
        }
        default: return {};
    }
}

// Refuses a pattern that is not for the model, as far as its metadata tell.
static void check_fits(const gate_pattern & pattern, const gguf_context * gguf, const std::string & model) {
    const int64_t key = gguf_find_key(gguf, "general.architecture");
    if (key < 0 || gguf_get_kv_type(gguf, key) != GGUF_TYPE_STRING) {
        throw gate_error(printable(model) + ": the file names no architecture; expected a language model");
    }
    const std::string arch = gguf_get_val_str(gguf, key);

    const auto blocks = integers(gguf, arch + ".block_count");
    auto heads = integers(gguf, arch + ".attention.head_count_kv");
    if (heads.empty()) {
        heads = integers(gguf, arch + ".attention.head_count");
    }
    if (blocks.empty() || heads.empty()) {
        return; // what it has is checked when it is used
    }
    // the last blocks may be those that predict ahead, which a context does not run (llama_hparams::n_layer)
    const auto ahead = integers(gguf, arch + ".nextn_predict_layers");
    const int64_t n_layer = blocks[0] - (ahead.empty() ? 0 : ahead[0]);
    if (n_layer > 0 && size_t(n_layer) < heads.size()) {
        heads.resize(size_t(n_layer));
    }
    // which layers have gates the metadata do not tell alike: the widest of those is one of all
    const int64_t most = *std::max_element(heads.begin(), heads.end());
    if (pattern.n_layer != n_layer || std::find(heads.begin(), heads.end(), pattern.n_head_kv) == heads.end()) {
        throw gate_shape_error(printable(pattern.source) + ": the pattern has " + std::to_string(pattern.n_layer) + " layers x " + std::to_string(pattern.n_head_kv) +
                " KV heads, the model " + std::to_string(n_layer) + " x " + std::to_string(most) + ". Use a pattern that was made for this model",
                std::vector<int32_t>(size_t(pattern.n_layer), pattern.n_head_kv), std::vector<int32_t>(size_t(std::clamp<int64_t>(n_layer, 0, max_gate_layers)), int32_t(most)));
    }
}

namespace {

struct file {
    file(const std::string & path, const char * mode) : path(path), ptr(fopen(path.c_str(), mode)) {
        if (!ptr && errno == EEXIST) {
            throw gate_error(printable(path) + ": there is such a file already, which another copy may be writing. Remove it if none is, or choose another target");
        }
        if (!ptr) {
            fail(*mode == 'r' ? "read" : "written");
        }
    }
    ~file() {
        if (ptr) {
            fclose(ptr);
        }
    }
    file(const file &) = delete;

    [[noreturn]] void fail(const char * what) const {
        throw gate_error(printable(path) + ": cannot be " + what + ": " + strerror(errno) + ". Check the path, its permissions and the disk");
    }

    void close() {
        if (fclose(std::exchange(ptr, nullptr)) != 0) {
            fail("written");
        }
    }

    const std::string path;
    FILE *            ptr;
};

// A file that is there under its own name once it is whole, and not at all before.
struct unfinished : file {
    // x: what has the temporary name may be another copy's, or the model itself
    explicit unfinished(const std::string & target) : file(target + ".part", "wbx"), target(target) {}

    ~unfinished() {
        if (whole) {
            return;
        }
        if (ptr) {
            fclose(std::exchange(ptr, nullptr));
        }
        std::error_code ignored;
        fs::remove(fs::u8path(path), ignored);
    }

    void finish() {
        close();
        std::error_code error;
        fs::rename(fs::u8path(path), fs::u8path(target), error);
        if (error) {
            throw gate_error(printable(target) + ": cannot be written: " + error.message() + ". Check the path and its permissions");
        }
        whole = true;
    }

    const std::string target;
    bool              whole = false;
};

} // namespace

// The name of a split model's part, from that of its first one, which llama.cpp finds the others by.
static std::string part_name(const std::string & first, int64_t i, int64_t n) {
    char end[2][32];
    snprintf(end[0], sizeof(end[0]), "-00001-of-%05d.gguf", int(n));
    snprintf(end[1], sizeof(end[1]), "-%05d-of-%05d.gguf", int(i + 1), int(n));
    const size_t length = strlen(end[0]);
    if (first.size() <= length || first.compare(first.size() - length, length, end[0]) != 0) {
        throw gate_error(printable(first) + ": the model is split into " + std::to_string(n) + " files, which are found by their names; expected a name that ends in " + end[0]);
    }
    return first.substr(0, first.size() - length) + end[1];
}

static void check_target(const std::string & model, const std::string & target) {
    std::error_code ignored;
    if (fs::equivalent(fs::u8path(model), fs::u8path(target), ignored)) {
        throw gate_error(printable(target) + ": this is the model itself; expected the path of a copy");
    }
    if (const auto there = fs::status(fs::u8path(target), ignored); fs::exists(there) && !fs::is_regular_file(there)) {
        throw gate_error(printable(target) + ": this is no file that a copy could take the place of, but a folder or a device; expected the path of a copy");
    }
}

bool embed_gate_pattern(const gate_pattern & pattern, const std::string & model, const std::string & target, const std::function<bool(double)> & progress) {
    const gguf_context_ptr gguf = open_gguf(model);
    check_fits(pattern, gguf.get(), model);

    const auto count = integers(gguf.get(), "split.count"), number = integers(gguf.get(), "split.no");
    const int64_t n_part = count.empty() ? 1 : std::max<int64_t>(1, count[0]);
    if (!number.empty() && number[0] > 0) {
        throw gate_error(printable(model) + ": this is file " + std::to_string(number[0] + 1) + " of " + std::to_string(n_part) +
                " of a split model; expected the first, which has the metadata");
    }

    // of a split model all files, since they are found by their names
    std::vector<std::unique_ptr<file>>       in;
    std::vector<std::unique_ptr<unfinished>> out;
    double size = 0;
    for (int64_t i = 0; i < n_part; i++) {
        const std::string from = n_part > 1 ? part_name(model, i, n_part) : model, to = n_part > 1 ? part_name(target, i, n_part) : target;
        check_target(from, to);
        in.push_back(std::make_unique<file>(from, "rb"));
        out.push_back(std::make_unique<unfinished>(to));
        size += double(fs::file_size(fs::u8path(from)));
    }

    // tensors keep their places behind the metadata, which grow
    const size_t data_offset = gguf_get_data_offset(gguf.get());
    gguf_set_val_str(gguf.get(), gguf_pattern_key, gate_pattern_to_json(pattern).c_str());
    if (!gguf_write_to_file_ptr(gguf.get(), out[0]->ptr, /*only_meta =*/ true)) {
        out[0]->fail("written");
    }
    if (fseek(in[0]->ptr, long(data_offset), SEEK_SET) != 0) {
        in[0]->fail("read");
    }

    std::vector<char> piece(4 << 20);
    double done = double(data_offset);
    for (size_t i = 0; i < in.size(); i++) {
        while (const size_t n = fread(piece.data(), 1, piece.size(), in[i]->ptr)) {
            if (fwrite(piece.data(), 1, n, out[i]->ptr) != n) {
                out[i]->fail("written");
            }
            done += double(n);
            if (!progress(std::min(1.0, done / size))) {
                return false;
            }
        }
        if (ferror(in[i]->ptr)) {
            in[i]->fail("read");
        }
    }
    // the first last: without it the others are no model
    while (!out.empty()) {
        out.back()->finish();
        out.pop_back();
    }
    return true;
}

} // namespace duo
