#include "state.h"

#include "log.h"
#include "sequence.h"

#include "duo-config.h"
#include "fnv1a.h"
#include "ggml-backend.h"
#include "llama-context.h"
#include "llama-io.h"
#include "llama-kv-cache.h"
#include "llama-memory.h"
#include "llama-model.h"
#include "utf8.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <typeinfo>

namespace duo::abi {

namespace {

constexpr char     magic[8] = { 'l', 'd', 'u', 'o', '-', 's', 'e', 'q' };
constexpr uint32_t version  = 1;

struct fixed_part {
    char     magic[8];
    uint32_t version;
    uint32_t n_identity; // bytes of JSON
    uint64_t n_tokens;
    uint64_t n_cached;   // of them
    uint64_t n_state;    // bytes of what the cache holds
    uint64_t payload;    // a hash of the tokens and of that
    uint64_t header;     // a hash of all above and of the JSON
};

// Far more than there are.
constexpr uint32_t max_identity = 1 << 20;

std::string hex(uint64_t x) {
    char text[17];
    snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(x));
    return text;
}

// --- what a state is of ---

// Tells models apart: their metadata, the names, types and sizes of their tensors, and the values of the small ones. Not told apart are models that differ in
// nothing but the values of matrices.
uint64_t hash_of(const llama_model & m) {
    uint64_t h = duo::fnv1a(nullptr, 0);
    const auto add = [&](const void * data, size_t n) { h = duo::fnv1a(data, n, h); };
    for (const auto & [key, value] : std::map<std::string, std::string>(m.gguf_kv.begin(), m.gguf_kv.end())) {
        if (key.rfind("llama_duo.", 0) != 0) { // a pattern may be embedded later
            add(key.c_str(), key.size() + 1);
            add(value.c_str(), value.size() + 1);
        }
    }
    std::vector<uint8_t> values;
    for (const auto & [name, t] : m.tensors_by_name) {
        add(name.c_str(), name.size() + 1);
        add(&t->type, sizeof(t->type));
        add(t->ne, sizeof(t->ne));
        if (ggml_n_dims(t) == 1 && t->buffer && t->data && ggml_nbytes(t) <= (1 << 20)) {
            values.resize(ggml_nbytes(t));
            ggml_backend_tensor_get(t, values.data(), 0, values.size());
            add(values.data(), values.size());
        }
    }
    return h;
}

// llama.cpp's standard cache, whose states are known here in part.
bool is_standard(const llama_memory_i * memory) {
    return typeid(*memory) == typeid(llama_kv_cache);
}

json identity_of(llama_context * ctx, const model & m, const std::vector<used_lora> & loras, ggml_type type_k, ggml_type type_v) {
    const llama_cparams & cparams = ctx->get_cparams();
    json cache = { { "typeK", ggml_type_name(type_k) }, { "typeV", ggml_type_name(type_v) } };
    if (const duo_config * duo = cparams.duo.get()) {
        cache["typeK"] = duo->type_k_name();
        uint64_t h = duo::fnv1a(nullptr, 0);
        for (const duo_layer & l : duo->layers) {
            h = duo::fnv1a(l.recent.data(), l.recent.size() * sizeof(int32_t), h);
            const int32_t more[] = { int32_t(l.recent.size()), l.sink, l.chunk };
            h = duo::fnv1a(more, sizeof(more), h);
        }
        cache["heads"] = { { "sink", duo->sink }, { "recent", duo->recent }, { "chunk", duo->chunk }, { "pattern", hex(h) } };
    } else {
        cache["heads"]          = "all full";
        cache["flashAttention"] = cparams.flash_attn; // V is stored otherwise
        if (!is_standard(ctx->get_memory())) {
            cache["sequences"] = llama_n_seq_max(ctx); // llama.cpp's caches write a part for each, empty or not
        }
    }
    json adapters = json::array();
    for (const used_lora & l : loras) {
        adapters.push_back({ hex(l.adapter->hash), l.scale });
    }
    const llama_model & ptr = *m.ptr;
    return {
        { "model", { { "architecture", ptr.arch_name() }, { "name", ptr.name }, { "layers", llama_model_n_layer(&ptr) }, { "embeddingSize", llama_model_n_embd(&ptr) },
                     { "vocabularySize", llama_vocab_n_tokens(m.vocab) }, { "hash", hex(hash_of(ptr)) } } },
        { "cache", cache },
        { "loras", adapters },
        { "llamaCpp", LLAMA_STATE_SEQ_VERSION },
    };
}

// The first of two identities' members that differ, as a sentence; "" where none does.
std::string difference(const json & found, const json & wanted, const std::string & of = "") {
    for (const auto & [key, value] : wanted.items()) {
        const json other = found.is_object() && found.contains(key) ? found[key] : json();
        if (value.is_object() && other.is_object()) {
            const std::string inner = difference(other, value, of + key + " ");
            if (!inner.empty()) {
                return inner;
            }
        } else if (other != value) {
            return of + key + " " + excerpt(dump(other), 80) + ", and this is " + excerpt(dump(value), 80);
        }
    }
    return "";
}

// What is nested deeper than an identity is left out while it is parsed: to copy and to print it recurse.
bool is_flat(int depth, json::parse_event_t, json &) {
    return depth <= 8;
}

job_error refused(const std::string & why) {
    return job_error("state", "this is not a saved sequence that can be loaded here: " + why);
}

// --- reading and writing ---

// Hashes and counts what is written, and hands it on.
class writer : public llama_io_write_i {
public:
    explicit writer(const job & j, std::function<void(const void *, size_t)> to) : j(j), to(std::move(to)) {}

    void write(const void * src, size_t size) override {
        j.throw_if_cancelled();
        hash = duo::fnv1a(src, size, hash);
        n += size;
        to(src, size);
    }

    void write_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        for (size_t done = 0; done < size;) { // in pieces, so that a large layer takes no memory beside its own
            const size_t n_piece = std::min(size - done, size_t(1) << 24);
            piece.resize(n_piece);
            ggml_backend_tensor_get(tensor, piece.data(), offset + done, n_piece);
            write(piece.data(), n_piece);
            done += n_piece;
        }
    }

    size_t n_bytes() override { return n; }

    uint64_t hash = duo::fnv1a(nullptr, 0);

private:
    const job &                               j;
    std::function<void(const void *, size_t)> to;
    std::vector<uint8_t>                      piece;
    size_t                                    n = 0;
};

// Bytes or a file, read from the beginning; short of them it throws.
class source {
public:
    explicit source(const state_place & from) : bytes(from.bytes) {
        if (!from.path.empty()) {
            namespace fs = std::filesystem;
            std::error_code err;
            const auto path = fs::u8path(from.path);
            errno = 0;
            if (!fs::is_regular_file(path, err)) {
                throw job_error("state", "cannot read \"" + from.path + "\": " + (err ? err.message() : "it is no file"));
            }
            file.open(path, std::ios::binary);
            size_ = size_t(fs::file_size(path, err));
            if (!file || err) {
                throw job_error("state", "cannot read \"" + from.path + "\": " + strerror(errno));
            }
        } else {
            size_ = bytes.size();
        }
    }

    size_t size() const { return size_; }

    void seek(size_t to) {
        at = to;
        if (file.is_open()) {
            file.clear();
            file.seekg(std::streamoff(to));
        }
    }

    void read(void * dst, size_t n) {
        if (n > size_ - at) {
            throw refused("it is cut off");
        }
        if (file.is_open()) {
            if (!file.read(static_cast<char *>(dst), std::streamsize(n))) {
                throw refused("it cannot be read to its end");
            }
        } else {
            std::copy_n(bytes.data() + at, n, static_cast<char *>(dst)); // unlike memcpy none to or from a null pointer, too
        }
        at += n;
    }

    size_t n_left() const { return size_ - at; }

private:
    const std::vector<char> & bytes;
    std::ifstream             file;
    size_t                    size_ = 0;
    size_t                    at    = 0;
};

class reader : public llama_io_read_i {
public:
    reader(source & from, size_t n) : from(from), n_all(n) {}

    void read(void * dst, size_t size) override {
        if (size > n_left()) {
            throw std::runtime_error("a saved sequence ends within what the cache wants to read");
        }
        from.read(dst, size);
        n += size;
    }

    void read_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        for (size_t done = 0; done < size;) {
            const size_t n_piece = std::min(size - done, size_t(1) << 24);
            piece.resize(n_piece);
            read(piece.data(), n_piece);
            ggml_backend_tensor_set(tensor, piece.data(), offset + done, n_piece);
            done += n_piece;
        }
    }

    size_t n_bytes() override { return n; }
    size_t n_left() override { return n_all - n; }

private:
    source &             from;
    const size_t         n_all;
    size_t               n = 0;
    std::vector<uint8_t> piece;
};

// The standard cache writes a part for each of the context's sequences, of which all but one are empty: their numbers of cells, 0. Without them a state goes into a
// context of any number of sequences.
class lone_writer : public llama_io_write_i {
public:
    lone_writer(llama_io_write_i & to, size_t n_stream, size_t i_stream) : to(to), n_before(i_stream), n_behind(n_stream - 1 - i_stream) {}

    void write(const void * src, size_t size) override {
        const size_t i = n_writes++;
        if (i == 0) {
            const uint32_t one = 1;
            to.write(&one, sizeof(one));
        } else if (i > n_before) {
            if (size != sizeof(uint32_t)) {
                let_out(0);
                to.write(src, size);
                return;
            }
            held.push_back(0);
            memcpy(&held.back(), src, size);
            let_out(n_behind);
        }
    }

    void write_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        let_out(0);
        to.write_tensor(tensor, offset, size);
    }

    size_t n_bytes() override { return to.n_bytes(); }

    // To be called at the end.
    void finish() const {
        if (held.size() != n_behind || std::any_of(held.begin(), held.end(), [](uint32_t n) { return n != 0; })) {
            throw std::runtime_error("llama.cpp's cache does not write what it is known to write");
        }
    }

private:
    llama_io_write_i &   to;
    const size_t         n_before;
    const size_t         n_behind;
    size_t               n_writes = 0;
    std::deque<uint32_t> held; // may be the numbers of cells of the sequences behind

    void let_out(size_t n_left) {
        for (; held.size() > n_left; held.pop_front()) {
            to.write(&held.front(), sizeof(uint32_t));
        }
    }
};

// The other way round.
class lone_reader : public llama_io_read_i {
public:
    lone_reader(llama_io_read_i & from, uint32_t n_stream, uint64_t n_cells) : from(from), n_stream(n_stream), n_cells(n_cells) {}

    void read(void * dst, size_t size) override {
        const bool is_first = n_reads++ == 0;
        if (!is_first && from.n_left() == 0) { // the sequences behind
            memset(dst, 0, size);
            return;
        }
        from.read(dst, size);
        if (is_first && size == sizeof(n_stream)) {
            memcpy(dst, &n_stream, size);
        }
        uint32_t n = 0;
        if (n_reads == 2 && size == sizeof(n)) { // llama.cpp makes room for so many before it reads one
            memcpy(&n, dst, size);
            if (n != n_cells) {
                throw std::runtime_error("it says that it has " + std::to_string(n) + " cells, and has " + std::to_string(n_cells));
            }
        }
    }

    void read_tensor(ggml_tensor * tensor, size_t offset, size_t size) override { from.read_tensor(tensor, offset, size); }

    size_t n_bytes() override { return from.n_bytes(); }
    size_t n_left() override { return from.n_left(); }

private:
    llama_io_read_i & from;
    const uint32_t    n_stream;
    const uint64_t    n_cells;
    size_t            n_reads = 0;
};

// --- the tasks ---

class state_task : public task {
public:
    state_task(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> s)
        : task(std::move(j), std::move(s)), ctx(c.ptr.get()), m(c.mdl), loras(c.loras), n_ctx(c.n_ctx_seq()), type_k(c.type_k), type_v(c.type_v) {}

    bool wants(const cache_sequence &, bool) override { return false; }
    void computed(cache_sequence &, const computed_piece &) override {}
    void no_room(cache_sequence &) override {}

protected:
    llama_context * const        ctx;
    const std::shared_ptr<model> m;
    const std::vector<used_lora> loras;
    const size_t                 n_ctx;
    const ggml_type              type_k;
    const ggml_type              type_v;

    json identity() const { return identity_of(ctx, *m, loras, type_k, type_v); }

    void finish_with(uint64_t n_bytes) {
        on->publish();
        j->finish([&] {
            json result = on->describe();
            result["bytes"] = n_bytes;
            return result;
        });
    }
};

class save : public state_task {
public:
    save(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> s, std::string path) : state_task(std::move(j), c, std::move(s)), path(std::move(path)) {}

    void start(const std::vector<cache_sequence *> & own) override {
        const cache_sequence & s = *own.front();
        ctx->synchronize();
        ctx->memory_update(false); // copies that wait
        const std::string who = dump(identity());
        if (path.empty()) {
            std::vector<char> bytes;
            const fixed_part f = write(s, who, [&](const void * data, size_t n) {
                const size_t at = bytes.size();
                if (at + n > size_t(INT32_MAX)) {
                    throw job_error("state", "the state is larger than 2 GiB: save it to a file");
                }
                bytes.resize(at + n);
                std::copy_n(static_cast<const char *>(data), n, bytes.data() + at);
            });
            memcpy(bytes.data(), &f, sizeof(f));
            j->set_data(bytes);
            finish_with(bytes.size());
        } else {
            finish_with(to_file(s, who));
        }
    }

private:
    const std::string path;

    // Writes all, with a fixed part that is not filled in yet, and returns that which belongs there.
    fixed_part write(const cache_sequence & s, const std::string & who, const std::function<void(const void *, size_t)> & to) const {
        fixed_part f = {};
        to(&f, sizeof(f));
        to(who.data(), who.size());

        writer out(*j, to);
        out.write(s.tokens.data(), s.tokens.size() * sizeof(llama_token));
        const size_t n_tokens = out.n_bytes();
        if (s.n_cached > 0) {
            llama_memory_i * memory = ctx->get_memory();
            if (is_standard(memory)) {
                lone_writer lone(out, llama_n_seq_max(ctx), size_t(s.id));
                memory->state_write(lone, s.id, 0);
                lone.finish();
            } else {
                memory->state_write(out, s.id, 0);
            }
        }
        memcpy(f.magic, magic, sizeof(magic));
        f.version    = version;
        f.n_identity = uint32_t(who.size());
        f.n_tokens   = s.tokens.size();
        f.n_cached   = s.n_cached;
        f.n_state    = out.n_bytes() - n_tokens;
        f.payload    = out.hash;
        f.header     = duo::fnv1a(who.data(), who.size(), duo::fnv1a(&f, offsetof(fixed_part, header)));
        return f;
    }

    // Beside its place, and there once it is whole.
    uint64_t to_file(const cache_sequence & s, const std::string & who) const {
        namespace fs = std::filesystem;
        const fs::path target = fs::u8path(path);
        const fs::path part   = fs::u8path(path + ".part" + hex(uint64_t(reinterpret_cast<uintptr_t>(this))));
        const auto fail = [&](const std::string & why) { return job_error("output", "cannot write \"" + path + "\": " + why); };
        std::error_code err;
        try {
            errno = 0;
            std::ofstream file(part, std::ios::binary);
            if (!file) {
                throw fail(strerror(errno));
            }
            const fixed_part f = write(s, who, [&](const void * data, size_t n) {
                if (!file.write(static_cast<const char *>(data), std::streamsize(n))) {
                    throw fail(errno ? strerror(errno) : "the disk may be full");
                }
            });
            file.seekp(0);
            file.write(reinterpret_cast<const char *>(&f), sizeof(f));
            file.close();
            if (!file) {
                throw fail(errno ? strerror(errno) : "the disk may be full");
            }
            const auto n = fs::file_size(part, err);
            fs::rename(part, target, err);
            if (err) {
                throw fail(err.message());
            }
            return n;
        } catch (...) {
            fs::remove(part, err);
            throw;
        }
    }
};

class load : public state_task {
public:
    load(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> s, state_place from) : state_task(std::move(j), c, std::move(s)), place(std::move(from)) {}

    // All of it is checked before the sequence changes.
    void start(const std::vector<cache_sequence *> & own) override {
        source from(place);
        fixed_part f = {};
        from.read(&f, std::min(sizeof(f), from.size()));
        if (from.size() < sizeof(f) || memcmp(f.magic, magic, sizeof(magic)) != 0) {
            throw refused("it does not begin as one");
        }
        if (f.version != version) {
            throw refused("it has version " + std::to_string(f.version) + ", and this is version " + std::to_string(version));
        }
        if (f.n_identity > max_identity) {
            throw refused("it is damaged");
        }
        std::string who(f.n_identity, '\0');
        from.read(who.data(), who.size());
        if (f.header != duo::fnv1a(who.data(), who.size(), duo::fnv1a(&f, offsetof(fixed_part, header)))) {
            throw refused("its beginning is damaged");
        }
        if (const std::string other = difference(json::parse(who, is_flat, false), identity()); !other.empty()) {
            throw refused("it is of " + other);
        }
        if (f.n_tokens > n_ctx) {
            throw job_error("full", "the saved sequence has " + std::to_string(f.n_tokens) + " tokens, and a sequence of the context holds " + std::to_string(n_ctx));
        }
        const size_t n_payload = size_t(f.n_tokens) * sizeof(llama_token) + size_t(f.n_state);
        const size_t begin     = from.size() - from.n_left();
        if (f.n_cached > f.n_tokens || from.n_left() != n_payload) {
            throw refused("it is cut off, or has something behind it");
        }
        check_payload(from, f.payload);

        from.seek(begin);
        std::vector<llama_token> tokens(f.n_tokens);
        from.read(tokens.data(), tokens.size() * sizeof(llama_token));
        if (!std::all_of(tokens.begin(), tokens.end(), [&](llama_token t) { return m->is_token(t); })) {
            throw refused("it has tokens that the model does not have");
        }

        cache_sequence & s = *own.front();
        ctx->synchronize();
        ctx->memory_update(false); // copies that were asked for would be made after this, over it
        s.cut(0);
        if (f.n_cached > 0) {
            read_cache(s, from, f);
        }
        s.tokens   = std::move(tokens);
        s.n_cached = size_t(f.n_cached);
        finish_with(from.size());
    }

private:
    const state_place place;

    void check_payload(source & from, uint64_t expected) const {
        uint64_t hash = duo::fnv1a(nullptr, 0);
        std::vector<char> piece(size_t(1) << 20);
        while (from.n_left() > 0) {
            j->throw_if_cancelled();
            const size_t n = std::min(piece.size(), from.n_left());
            from.read(piece.data(), n);
            hash = duo::fnv1a(piece.data(), n, hash);
        }
        if (hash != expected) {
            throw refused("it is damaged");
        }
    }

    void read_cache(cache_sequence & s, source & from, const fixed_part & f) const {
        log_capture errors;
        std::string why;
        try {
            reader in(from, size_t(f.n_state));
            lone_reader lone(in, llama_n_seq_max(ctx), f.n_cached);
            llama_memory_i * memory = ctx->get_memory();
            memory->state_read(is_standard(memory) ? static_cast<llama_io_read_i &>(lone) : in, s.id, 0);
        } catch (const std::exception & e) {
            why = errors.reason(e.what());
        }
        const llama_pos last = llama_memory_seq_pos_max(llama_get_memory(ctx), s.id);
        if (!why.empty() || last + 1 != llama_pos(f.n_cached)) {
            llama_memory_seq_rm(llama_get_memory(ctx), s.id, -1, -1);
            throw refused(why.empty() ? "the cache took something else out of it" : why);
        }
    }
};

} // namespace

std::shared_ptr<task> save_task(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> s, std::string path) {
    return std::make_shared<save>(std::move(j), c, std::move(s), std::move(path));
}

std::shared_ptr<task> load_task(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> s, state_place from) {
    return std::make_shared<load>(std::move(j), c, std::move(s), std::move(from));
}

} // namespace duo::abi
