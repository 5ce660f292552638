// Gates within models and beside them: where "auto" finds them.
#include "check.h"
#include "contexts.h"
#include "induction-model.h"

#include "duo-report.h"
#include "gate-gguf.h"
#include "gate-pattern.h"

#include "ggml-cpp.h"
#include "gguf.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

namespace fs = std::filesystem;

namespace {

std::string last_error;

struct folder {
    const fs::path path = fs::temp_directory_path() / ("llama-duo-model-gates-" + std::to_string(getpid()));

    folder() { fs::create_directories(path); }
    ~folder() { fs::remove_all(path); }

    std::string file(const std::string & name) const { return (path / name).string(); }
    void write(const std::string & name, const std::string & text) const { std::ofstream(path / name, std::ios::binary) << text; }

    std::vector<std::string> names() const {
        std::vector<std::string> all;
        for (const auto & entry : fs::directory_iterator(path)) {
            all.push_back(entry.path().filename().string());
        }
        std::sort(all.begin(), all.end());
        return all;
    }
};

// A pattern of the hand-built model in which `n` heads have a gate of 1 and the others 0.
duo::gate_pattern pattern_of(int n, int n_layer = 2, int n_head = 4) {
    duo::gate_pattern p;
    p.n_layer   = n_layer;
    p.n_head_kv = n_head;
    for (int i = 0; i < n_layer * n_head; ++i) {
        p.gates.push_back(i < n);
    }
    p.sink   = 4;
    p.recent = 32;
    p.provenance = R"({"method":"by hand","seed":7})";
    return p;
}

llama_model_ptr_t load(const std::string & path) {
    return llama_model_ptr_t(llama_model_load_from_file(path.c_str(), llama_model_default_params()), llama_model_free);
}

// How many heads keep everything with gates "auto"; -1: no context.
int n_retrieval(llama_model * model) {
    llama_context_params p = duo_params(GGML_TYPE_F16, 1024, -1.0f, "auto");
    p.duo.threshold = 0.5f;
    p.n_ubatch      = 64;
    const auto ctx = make_context(model, p);
    return ctx ? int(duo_kv_size_of(ctx.get()).n_retrieval) : -1;
}

std::vector<float> logits(llama_model * model) {
    const auto ctx = make_context(model, stock_params(GGML_TYPE_F32, 256));
    std::vector<llama_token> tokens = { 40, 41, 42, 7, 8, 9, 40 };
    CHECK_EQ(llama_decode(ctx.get(), llama_batch_get_one(tokens.data(), int32_t(tokens.size()))), 0);
    const float * x = llama_get_logits_ith(ctx.get(), -1);
    return std::vector<float>(x, x + induction_model::n_vocab);
}

const auto go_on = [](double) { return true; };

void test_auto() {
    const folder dir;
    const std::string path = dir.file("model.gguf"), copy = dir.file("copy.gguf");
    write_induction_model({}, path);

    CHECK_EQ(n_retrieval(load(path).get()), -1);
    CHECK(last_error.find("neither the metadata key llama_duo.pattern nor the file " + dir.file("model.duo.json")) != std::string::npos);

    dir.write("model.duo.json", duo::gate_pattern_to_json(pattern_of(3)));
    CHECK_EQ(n_retrieval(load(path).get()), 3);

    // in a copy; what lies beside it comes second
    CHECK(duo::embed_gate_pattern(pattern_of(5), path, copy, go_on));
    dir.write("copy.duo.json", duo::gate_pattern_to_json(pattern_of(2)));
    CHECK_EQ(n_retrieval(load(copy).get()), 5);
    CHECK(logits(load(copy).get()) == logits(load(path).get()));

    // in place of the one that is there
    const std::string again = dir.file("again.gguf");
    CHECK(duo::embed_gate_pattern(pattern_of(6), copy, again, go_on));
    CHECK_EQ(n_retrieval(load(again).get()), 6);
    CHECK(logits(load(again).get()) == logits(load(path).get()));
    CHECK((dir.names() == std::vector<std::string> { "again.gguf", "copy.duo.json", "copy.gguf", "model.duo.json", "model.gguf" }));

    // of a split model by the name that its parts have in common
    const std::string part = dir.file("parts-00001-of-00002.gguf");
    fs::copy_file(path, part);
    CHECK_EQ(n_retrieval(load(part).get()), -1);
    CHECK(last_error.find("nor the file " + dir.file("parts.duo.json")) != std::string::npos);
    dir.write("parts.duo.json", duo::gate_pattern_to_json(pattern_of(4)));
    CHECK_EQ(n_retrieval(load(part).get()), 4);

    // as a pattern file
    const auto read = duo::load_gate_pattern(again);
    CHECK(read.gates == pattern_of(6).gates);
    CHECK_EQ(read.sink, 4);
    CHECK_EQ(read.recent, 32);
    CHECK_EQ(read.provenance, pattern_of(6).provenance);
    CHECK_EQ(read.source, again);

    // with windows, in a copy and beside it
    duo::gate_pattern windows = pattern_of(4);
    windows.windows      = { 32, 64, 96, 128, 160, 192, 224, 256 };
    windows.sinks        = { 0, 8 };
    windows.loss_windows = { 16, 512 };
    windows.losses       = { 0.5f, 0, 1, 0, 2, 0.1f, 0, 0, 0, 0, 0, 0, 0, 0, -0.001f, 7 };
    const std::string wide = dir.file("wide.gguf");
    CHECK(duo::embed_gate_pattern(windows, again, wide, go_on));
    const auto whole = duo::load_gate_pattern(wide);
    CHECK(whole.windows == windows.windows && whole.sinks == windows.sinks && whole.loss_windows == windows.loss_windows && whole.losses == windows.losses);
    dir.write("model.duo.json", duo::gate_pattern_to_json(windows));
    for (const std::string & file : { wide, path }) {
        llama_context_params p = duo_params(GGML_TYPE_F16, 1024, 1.0f, "auto");
        p.n_ubatch = 64;
        uint64_t cells = 0;
        for (int i = 0; i < 8; ++i) {
            cells += GGML_PAD(windows.sinks[i / 4] + windows.windows[i] + 1 + 64 + 64, 64);
        }
        const auto model = load(file);
        const auto size = duo_kv_size_for(model.get(), p);
        CHECK_EQ(size.streaming_bytes, cells * size.full_bytes / (8 * 1024));
        CHECK_EQ(size.recent, 256);
        CHECK_EQ(size.sink, 8);
        CHECK_EQ(size.n_cells_streaming, uint32_t(GGML_PAD(8 + 256 + 129, 64)));
    }
}

void test_metadata_are_kept() {
    const folder dir;
    const std::string path = dir.file("model.gguf"), copy = dir.file("copy.gguf");
    write_induction_model({}, path);
    duo::embed_gate_pattern(pattern_of(4), path, copy, go_on);

    const gguf_context_ptr a(gguf_init_from_file(path.c_str(), { true, nullptr })), b(gguf_init_from_file(copy.c_str(), { true, nullptr }));
    CHECK_EQ(gguf_get_n_kv(b.get()), gguf_get_n_kv(a.get()) + 1);
    for (int64_t i = 0; i < gguf_get_n_kv(a.get()); ++i) {
        const char * key = gguf_get_key(a.get(), i);
        CHECK(gguf_find_key(b.get(), key) >= 0);
    }
    CHECK_EQ(gguf_get_n_tensors(b.get()), gguf_get_n_tensors(a.get()));
    CHECK_EQ(fs::file_size(copy) - gguf_get_data_offset(b.get()), fs::file_size(path) - gguf_get_data_offset(a.get()));
}

// A file whose metadata say that its layers have so many KV heads, the last of them in layers that predict ahead.
void write_model_with_heads(const folder & dir, const std::string & path, const std::vector<uint32_t> & n_head_kv, uint32_t n_ahead) {
    write_induction_model({}, dir.file("without.gguf"));
    gguf_context_ptr gguf(gguf_init_from_file(dir.file("without.gguf").c_str(), { true, nullptr }));
    gguf_set_val_u32(gguf.get(), "llama.block_count", uint32_t(n_head_kv.size()));
    gguf_set_val_u32(gguf.get(), "llama.nextn_predict_layers", n_ahead);
    gguf_set_arr_data(gguf.get(), "llama.attention.head_count_kv", GGUF_TYPE_UINT32, n_head_kv.data(), n_head_kv.size());
    CHECK(gguf_write_to_file(gguf.get(), path.c_str(), true));
    std::ofstream(path, std::ios::binary | std::ios::app) << std::string(fs::file_size(dir.file("without.gguf")), '\0');
}

// Layers without gates, such as those with sliding windows of their own, may be wider than those that have them.
void test_wider_layers_without_gates() {
    const folder dir;
    const std::string path = dir.file("model.gguf"), copy = dir.file("copy.gguf");
    write_model_with_heads(dir, path, { 8, 2 }, 0);
    duo::gate_pattern pattern = pattern_of(3, 2, 2);
    pattern.n_head_layer = { 0, 2 };
    pattern.gates        = { 0, 0, 1, 0.5f };
    CHECK(duo::embed_gate_pattern(pattern, path, copy, go_on));
    CHECK(duo::load_gate_pattern(copy).gates == pattern.gates);
    CHECK_THROWS(duo::embed_gate_pattern(pattern_of(3, 2, 3), path, dir.file("other.gguf"), go_on), duo::gate_error, "the pattern has 2 layers x 3 KV heads, the model 2 x 8");
}

// Layers that predict ahead (MTP) are in the file, and in no pattern.
void test_layers_that_predict_ahead() {
    const folder dir;
    const std::string path = dir.file("model.gguf"), copy = dir.file("copy.gguf");
    write_model_with_heads(dir, path, { 4, 4, 8 }, 1);

    CHECK(duo::embed_gate_pattern(pattern_of(4), path, copy, go_on));
    CHECK(duo::load_gate_pattern(copy).gates == pattern_of(4).gates);
    CHECK_THROWS(duo::embed_gate_pattern(pattern_of(4, 3, 8), path, copy, go_on), duo::gate_error, "the pattern has 3 layers x 8 KV heads, the model 2 x 4");
}

void test_stopped() {
    const folder dir;
    write_induction_model({}, dir.file("model.gguf"));
    double last = -1;
    CHECK(!duo::embed_gate_pattern(pattern_of(4), dir.file("model.gguf"), dir.file("copy.gguf"), [&](double x) {
        CHECK(x > last && x <= 1);
        last = x;
        return false;
    }));
    CHECK((dir.names() == std::vector<std::string> { "model.gguf" }));
}

void test_refused() {
    const folder dir;
    const std::string path = dir.file("model.gguf");
    write_induction_model({}, path);
    dir.write("text.gguf", "not a model");
    dir.write("short.gguf", "GGUF");

    const auto refuses = [&](const duo::gate_pattern & p, const std::string & model, const std::string & target, const std::string & wanted) {
        CHECK_THROWS(duo::embed_gate_pattern(p, model, target, go_on), duo::gate_error, wanted);
    };
    refuses(pattern_of(4), dir.file("text.gguf"),  dir.file("copy.gguf"), "not a GGUF file");
    refuses(pattern_of(4), dir.file("none.gguf"),  dir.file("copy.gguf"), "not a GGUF file");
    refuses(pattern_of(4), path, path, "this is the model itself");
    refuses(pattern_of(4), path, dir.file("no/such/copy.gguf"), "cannot be written");
    refuses(pattern_of(4, 3), path, dir.file("copy.gguf"), "the pattern has 3 layers x 4 KV heads, the model 2 x 4");
    refuses(pattern_of(4, 2, 8), path, dir.file("copy.gguf"), "the pattern has 2 layers x 8 KV heads");
    CHECK((dir.names() == std::vector<std::string> { "model.gguf", "short.gguf", "text.gguf" }));

    CHECK_THROWS(duo::load_gate_pattern(path), duo::gate_error, "this model has no gates in it");
    CHECK_THROWS(duo::load_gate_pattern(dir.file("short.gguf")), duo::gate_error, "not a GGUF file that llama.cpp understands");

    // what the copy is called while it is written may be another's, or the model itself
    const std::string other = dir.file("copy.gguf.part");
    write_induction_model({}, other);
    const auto size = fs::file_size(other);
    for (const std::string & model : { path, other }) {
        refuses(pattern_of(4), model, dir.file("copy.gguf"), other + ": there is such a file already");
        CHECK_EQ(fs::file_size(other), size);
    }

    // parts of a model
    gguf_context_ptr gguf(gguf_init_from_file(path.c_str(), { true, nullptr }));
    gguf_set_val_u16(gguf.get(), "split.count", 2);
    const auto write_part = [&](const char * name, uint16_t no) {
        gguf_set_val_u16(gguf.get(), "split.no", no);
        CHECK(gguf_write_to_file(gguf.get(), dir.file(name).c_str(), true));
        std::ofstream(dir.file(name), std::ios::binary | std::ios::app) << std::string(fs::file_size(path), '\0');
    };
    write_part("part.gguf", 0);
    write_part("m-00001-of-00002.gguf", 0);
    const auto names = dir.names();
    refuses(pattern_of(4), dir.file("part.gguf"), dir.file("copy-00001-of-00002.gguf"), "part.gguf: the model is split into 2 files");
    refuses(pattern_of(4), dir.file("m-00001-of-00002.gguf"), dir.file("copy.gguf"), "expected a name that ends in -00001-of-00002.gguf");
    refuses(pattern_of(4), dir.file("m-00001-of-00002.gguf"), dir.file("copy-00001-of-00002.gguf"), "m-00002-of-00002.gguf: cannot be read");
    write_part("m-00002-of-00002.gguf", 1);
    refuses(pattern_of(4), dir.file("m-00002-of-00002.gguf"), dir.file("copy-00001-of-00002.gguf"), "this is file 2 of 2 of a split model; expected the first");
    dir.write("copy-00002-of-00002.gguf.part", "another's");
    refuses(pattern_of(4), dir.file("m-00001-of-00002.gguf"), dir.file("copy-00001-of-00002.gguf"), "copy-00002-of-00002.gguf.part: there is such a file already");
    CHECK_EQ(dir.names().size(), names.size() + 2); // of copies nothing

    fs::remove(dir.file("copy-00002-of-00002.gguf.part"));
    double last = 0;
    const auto told = [&](double x) { CHECK(x > last && x <= 1); last = x; return true; };
    CHECK(duo::embed_gate_pattern(pattern_of(4), dir.file("m-00001-of-00002.gguf"), dir.file("copy-00001-of-00002.gguf"), told));
    CHECK_EQ(last, 1.0);
    CHECK(duo::load_gate_pattern(dir.file("copy-00001-of-00002.gguf")).gates == pattern_of(4).gates);
    CHECK_THROWS(duo::load_gate_pattern(dir.file("copy-00002-of-00002.gguf")), duo::gate_error, "this model has no gates in it");
    CHECK_EQ(fs::file_size(dir.file("copy-00002-of-00002.gguf")), fs::file_size(dir.file("m-00002-of-00002.gguf")));
}

} // namespace

int main() {
    llama_log_set([](ggml_log_level level, const char * text, void *) { last_error = level == GGML_LOG_LEVEL_ERROR ? text : last_error; }, nullptr);
    llama_backend_init();
    test_auto();
    test_metadata_are_kept();
    test_wider_layers_without_gates();
    test_layers_that_predict_ahead();
    test_stopped();
    test_refused();
    return check::result();
}
