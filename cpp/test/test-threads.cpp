// The threads of ggml's CPU backend: kept from graph to graph, at rest in between, and not in each other's way beside busy processes.
#include "check.h"

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of all threads, in seconds.
double cpu_time() {
    rusage u;
    getrusage(RUSAGE_SELF, &u);
    return double(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * double(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

std::set<std::string> threads() {
    std::set<std::string> out;
    for (const auto & entry : std::filesystem::directory_iterator("/proc/self/task")) {
        out.insert(entry.path().filename());
    }
    return out;
}

// A backend without a pool of its user's, and a graph that waits as often as a decoded token's does: a chain of small products.
class chain {
public:
    explicit chain(int n_threads) : backend(ggml_backend_cpu_init(), ggml_backend_free), ctx(ggml_init({ 4 << 20, nullptr, true }), ggml_free) {
        set_threads(n_threads);
        ggml_tensor * matrix = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, size, size);
        ggml_tensor * x      = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, size);
        ggml_tensor * input  = x;
        for (int i = 0; i < n_nodes; ++i) {
            x = ggml_mul_mat(ctx.get(), matrix, x);
        }
        graph = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(graph, x);
        buffer.reset(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()));

        std::mt19937 rng(1);
        std::vector<float> values(size * size);
        for (float & v : values) {
            v = rng() % 2 ? 0.044f : -0.044f; // 1 / sqrt(size): x stays about as long as it is
        }
        ggml_backend_tensor_set(matrix, values.data(), 0, ggml_nbytes(matrix));
        ggml_backend_tensor_set(input,  values.data(), 0, ggml_nbytes(input));
    }

    void set_threads(int n) { ggml_backend_cpu_set_n_threads(backend.get(), n); }

    void compute() { CHECK_EQ(ggml_backend_graph_compute(backend.get(), graph), GGML_STATUS_SUCCESS); }

    std::vector<float> result() {
        std::vector<float> out(size);
        ggml_backend_tensor_get(ggml_graph_node(graph, -1), out.data(), 0, size * sizeof(float));
        return out;
    }

private:
    static constexpr int size = 512, n_nodes = 400;

    std::unique_ptr<ggml_backend, decltype(&ggml_backend_free)> backend;
    std::unique_ptr<ggml_context, decltype(&ggml_free)> ctx;
    std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)> buffer { nullptr, ggml_backend_buffer_free };
    ggml_cgraph * graph = nullptr;
};

void test_kept() {
    const size_t n = threads().size();
    {
        chain c(3);
        c.compute();
        const auto first = threads();
        CHECK_EQ(first.size(), n + 2);
        c.compute();
        CHECK(threads() == first);
        c.set_threads(2);
        c.compute();
        CHECK_EQ(threads().size(), n + 1);
    }
    CHECK_EQ(threads().size(), n);
}

void test_rest() {
    chain c(2);
    c.compute();
    const double before = cpu_time();
    usleep(300 * 1000);
    CHECK(cpu_time() - before < 0.03); // a thread that polls takes all 0.3 s
}

// Processes that only count, on the cores that this one may use.
class busy_processes {
public:
    explicit busy_processes(int n) : pids(n) {
        for (pid_t & pid : pids) {
            pid = fork();
            if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (volatile uint64_t i = 0;; i = i + 1) {
                }
            }
        }
    }
    busy_processes(const busy_processes &) = delete;

    ~busy_processes() {
        for (const pid_t pid : pids) {
            kill(pid, SIGKILL);
            waitpid(pid, nullptr, 0);
        }
    }

private:
    std::vector<pid_t> pids;
};

void use_two_cores() {
    cpu_set_t all, two;
    CPU_ZERO(&two);
    sched_getaffinity(0, sizeof(all), &all);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&two) < 2; ++i) {
        if (CPU_ISSET(i, &all)) {
            CPU_SET(i, &two);
        }
    }
    sched_setaffinity(0, sizeof(two), &two);
}

struct cost {
    std::vector<double> time, cpu; // of a graph in seconds, by window

    void measure(chain & c, double seconds) {
        const double start = now(), cpu_start = cpu_time();
        int n = 0;
        do {
            c.compute();
            n++;
        } while (now() - start < seconds);
        time.push_back((now() - start) / n);
        cpu.push_back((cpu_time() - cpu_start) / n);
    }
};

double median(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
}

// Two threads on two cores beside two busy processes, in turns with one thread alone, which waits for nobody: whatever else runs slows both down. A fair
// scheduler gives the two threads as much as the one; what they wait for each other comes on top. Waits that only spin take hundreds of times as long
// where they meet the scheduler's time slices, and take the cores for all of it.
void test_beside_busy_processes() {
    use_two_cores();
    chain one(1), two(2);
    cost alone, beside;
    for (int round = 0; round < 7; ++round) {
        alone.measure(one, 0.1);
        const busy_processes neighbours(2);
        usleep(20 * 1000); // for the scheduler to spread them
        beside.measure(two, 0.3);
    }
    printf("a graph: %.1f ms (%.1f of CPU) by one thread alone, %.1f ms (%.1f of CPU) by two beside two busy processes\n",
           1e3 * median(alone.time), 1e3 * median(alone.cpu), 1e3 * median(beside.time), 1e3 * median(beside.cpu));
    CHECK(median(beside.time) < 30 * median(alone.time)); // 5 to 8 on cores that others use, too
    CHECK(median(beside.cpu)  < 4 * median(alone.cpu));   // 2 to 2.4 there
}

// More threads than cores, all of which sleep and wake each other.
void test_same_result() {
    chain one(1), many(8);
    one.compute();
    const busy_processes neighbours(2);
    for (int i = 0; i < 20; ++i) {
        many.compute();
        CHECK(many.result() == one.result());
    }
}

} // namespace

int main() {
    test_kept();
    test_rest();
    test_beside_busy_processes();
    test_same_result();
    return check::result();
}
