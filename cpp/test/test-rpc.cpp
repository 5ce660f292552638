// Mixed heads through RPC: the cache is on the server, whose devices attend with the operator, or with flash attention where they do not say that they have
// it. Peers of stock llama.cpp are answered in stock's version of the protocol.
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "fake-device.h"
#include "random-model.h"

#include "ggml-rpc.h"
#include "llama-context.h"
#include "llama-kv-cache-duo.h"
#include "llama-model.h"
#include "llama.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

// Of llama.cpp v0.5.0. A client takes a server of its own major version and of no later minor one.
constexpr int STOCK_MAJOR = 7, STOCK_MINOR = 0;

constexpr int n_vocab = 512;

std::string warnings;

void keep_warnings(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_WARN) {
        warnings += text;
    }
}

int connect_to(int port) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family      = AF_INET;
    address.sin_port        = htons(uint16_t(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (sockaddr *) &address, sizeof(address)) == 0) {
        return fd;
    }
    close(fd);
    return -1;
}

int free_port() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family      = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    CHECK(bind(fd, (sockaddr *) &address, sizeof(address)) == 0 && getsockname(fd, (sockaddr *) &address, &size) == 0);
    close(fd);
    return ntohs(address.sin_port);
}

// A server in a process of its own, on the CPU or on a device that lacks the operator.
class server {
public:
    explicit server(bool has_operator) : port(free_port()) {
        fflush(stdout);
        pid = fork();
        if (pid == 0) {
            fake_device without("without", false, true);
            ggml_backend_dev_t devices[] = { has_operator ? ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) : without.device() };
            ggml_backend_rpc_start_server(endpoint().c_str(), nullptr, 1, 1, devices);
            _exit(1);
        }
        for (int i = 0; i < 600; ++i) {
            const int fd = connect_to(port);
            if (fd >= 0) {
                close(fd);
                return;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        CHECK(!"the server listens");
    }
    ~server() {
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
    }
    server(const server &) = delete;

    std::string endpoint() const { return "127.0.0.1:" + std::to_string(port); }

    const int port;

private:
    pid_t pid;
};

bool receive(int fd, void * to, size_t n) { return recv(fd, to, n, MSG_WAITALL) == ssize_t(n); }

// What a client of stock llama.cpp sees first.
void test_handshake(const server & s, int expected_devices) {
    constexpr uint8_t  HELLO = 14; // "must be always 14"
    constexpr uint64_t CAPS  = 24;
    const int fd = connect_to(s.port);
    std::vector<uint8_t> hello(1 + sizeof(CAPS) + CAPS, 0);
    hello[0] = HELLO;
    memcpy(&hello[1], &CAPS, sizeof(CAPS));
    CHECK_EQ(send(fd, hello.data(), hello.size(), 0), ssize_t(hello.size()));
    uint64_t size = 0;
    uint8_t  version[4] = {};
    CHECK(receive(fd, &size, sizeof(size)) && size == 4 + CAPS && receive(fd, version, sizeof(version)));
    CHECK_EQ(int(version[0]), STOCK_MAJOR);
    CHECK(version[1] <= STOCK_MINOR);
    CHECK_EQ(int(version[3]), expected_devices); // which stock does not look at
    close(fd);
}

struct outcome {
    std::vector<float>       logits; // of the prompt
    std::vector<llama_token> tokens; // the likeliest ones after it
};

outcome run(llama_context * ctx, const std::vector<llama_token> & tokens) {
    outcome o;
    CHECK_EQ(decode(ctx, tokens.data(), 300, 0, true, o.logits), 0);
    for (int i = 300; i < 305; ++i) {
        CHECK_EQ(decode(ctx, tokens.data() + i, 1, i, true, o.logits), 0);
    }
    std::vector<float> next(o.logits.end() - n_vocab, o.logits.end());
    for (int i = 305; i < 320; ++i) {
        o.tokens.push_back(llama_token(std::max_element(next.begin(), next.end()) - next.begin()));
        next.clear();
        CHECK_EQ(decode(ctx, &o.tokens.back(), 1, i, true, next), 0);
    }
    return o;
}

// A model whose layers and their caches are on the servers, in shares of split; the same as in one process.
void test_cache(const std::vector<const server *> & servers, const std::vector<float> & split, const std::vector<int> & n_layer, bool has_operator,
                const random_model_file & file, const std::vector<llama_token> & tokens, const outcome & want, const llama_context_params & params) {
    std::vector<ggml_backend_dev_t> devices;
    for (const server * s : servers) {
        ggml_backend_reg_t reg = ggml_backend_rpc_add_server(s->endpoint().c_str());
        CHECK(reg != nullptr);
        if (!reg) {
            return;
        }
        devices.push_back(ggml_backend_reg_dev_get(reg, 0));
    }
    devices.push_back(nullptr);
    std::vector<float> shares = split;
    shares.resize(llama_max_devices());
    llama_model_params model_params = llama_model_default_params();
    model_params.devices      = devices.data();
    model_params.tensor_split = shares.data();
    model_params.n_gpu_layers = 99;
    model_params.load_mode    = LLAMA_LOAD_MODE_NONE;
    const auto model = file.load(&model_params);
    warnings.clear();
    const auto ctx = make_context(model.get(), params);
    CHECK(ctx != nullptr);
    if (!ctx) {
        return;
    }
    CHECK(warnings.find("host memory") == std::string::npos);
    const auto * kv = static_cast<const llama_kv_cache_duo *>(ctx->get_memory());
    int il = 0;
    for (size_t i = 0; i < servers.size(); ++i) {
        const auto * buft = ggml_backend_dev_buffer_type(devices[i]);
        for (const int end = il + n_layer[i]; il < end; ++il) {
            CHECK_EQ(ggml_backend_buffer_get_type(kv->get_layer(il).k->buffer), buft);
            CHECK_EQ(kv->i_primitives(il) < 0, has_operator);
        }
        const auto sizes = llama_get_memory_breakdown(ctx.get());
        CHECK(sizes.at(const_cast<ggml_backend_buffer_type_t>(buft)).context > 0);
    }
    const outcome found = run(ctx.get(), tokens);
    const double apart = relative(found.logits, want.logits);
    printf("%zu servers %s the operator: logits %.1e apart\n", servers.size(), has_operator ? "with" : "without", apart);
    CHECK(apart < 1e-5);
    CHECK(!has_operator || found.tokens == want.tokens); // in another order of sums two may be as likely
}

} // namespace

int main() {
    const server with(true), other(true), without(false); // before this process has threads

    llama_log_set(keep_warnings, nullptr);
    llama_backend_init();
    test_handshake(with, 1);
    test_handshake(without, 0);

    random_model_params p;
    p.n_layer   = 4;
    p.n_head    = 4;
    p.n_head_kv = 2;
    p.head_size = 32;
    p.n_vocab   = n_vocab;
    p.seed      = fresh_seed();
    const random_model_file file(p);
    const auto tokens = random_tokens(305, n_vocab, fresh_seed());
    const auto local  = file.load();
    const std::string gates = random_gates(local.get(), fresh_seed());
    llama_context_params params = duo_params(GGML_TYPE_F32, 1024, 0.5f, gates.c_str());
    params.duo.sink   = 16;
    params.duo.recent = 48;
    params.n_ubatch   = 128;
    const auto want = run(make_context(local.get(), params).get(), tokens);
    test_cache({ &with },          { 1 },    { 4 },    true,  file, tokens, want, params);
    test_cache({ &without },       { 1 },    { 4 },    false, file, tokens, want, params);
    test_cache({ &with, &other },  { 1, 1 }, { 3, 1 }, true,  file, tokens, want, params); // the output counts as a layer
    test_cache({ &other, &with },  { 2, 3 }, { 2, 2 }, true,  file, tokens, want, params);
    return check::result();
}
