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

std::vector<float> run(llama_context * ctx, const std::vector<llama_token> & tokens) {
    std::vector<float> logits;
    CHECK_EQ(decode(ctx, tokens.data(), 300, 0, true, logits), 0);
    for (int i = 300; i < 305; ++i) {
        CHECK_EQ(decode(ctx, tokens.data() + i, 1, i, true, logits), 0);
    }
    return logits;
}

void test_cache(const server & s, bool has_operator, const random_model_file & file, const std::vector<llama_token> & tokens, const std::vector<float> & want,
                const llama_context_params & params) {
    ggml_backend_reg_t reg = ggml_backend_rpc_add_server(s.endpoint().c_str());
    CHECK(reg != nullptr);
    if (!reg) {
        return;
    }
    ggml_backend_dev_t devices[] = { ggml_backend_reg_dev_get(reg, 0), nullptr };
    llama_model_params model_params = llama_model_default_params();
    model_params.devices      = devices;
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
    CHECK(!ggml_backend_buffer_is_host(kv->get_layer(0).k->buffer));
    CHECK_EQ(kv->i_primitives(0) < 0, has_operator);
    const double apart = relative(run(ctx.get(), tokens), want);
    printf("server %s the operator: logits %.1e apart\n", has_operator ? "with" : "without", apart);
    CHECK(apart < 1e-5);
}

} // namespace

int main() {
    const server with(true), without(false); // before this process has threads

    llama_log_set(keep_warnings, nullptr);
    llama_backend_init();
    test_handshake(with, 1);
    test_handshake(without, 0);

    random_model_params p;
    p.n_layer   = 2;
    p.n_head    = 4;
    p.n_head_kv = 2;
    p.head_size = 32;
    p.seed      = fresh_seed();
    const random_model_file file(p);
    const auto tokens = random_tokens(305, p.n_vocab, fresh_seed());
    const auto local  = file.load();
    const std::string gates = random_gates(local.get(), fresh_seed());
    llama_context_params params = duo_params(GGML_TYPE_F32, 1024, 0.5f, gates.c_str());
    params.duo.sink   = 16;
    params.duo.recent = 48;
    params.n_ubatch   = 128;
    const auto want = run(make_context(local.get(), params).get(), tokens);
    test_cache(with, true, file, tokens, want, params);
    test_cache(without, false, file, tokens, want, params);
    return check::result();
}
