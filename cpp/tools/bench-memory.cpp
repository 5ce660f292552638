#include "bench-memory.h"

#include "host-memory.h"

#include "llama-ext.h"
#include "llama-model.h"

#include <algorithm>
#include <fstream>
#include <map>

namespace {

struct device_state {
    uint64_t total, free;
};

device_state state_now(ggml_backend_dev_t dev) {
    if (ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_CPU) {
        const auto host = duo::abi::host_memory_now();
        return { host.total_bytes, host.free_bytes };
    }
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(dev, &free, &total);
    return { total, free };
}

std::map<ggml_backend_dev_t, device_state> at_begin;

// What is tried out may fail, and says much: nobody is to hear of it.
class silence {
public:
    silence() {
        llama_log_get(&callback, &data);
        llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    }
    ~silence() { llama_log_set(callback, data); }

private:
    ggml_log_callback callback = nullptr;
    void *            data     = nullptr;
};

} // namespace

void bench_memory_begin() {
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        at_begin[ggml_backend_dev_get(i)] = state_now(ggml_backend_dev_get(i));
    }
}

uint64_t bench_memory_peak(ggml_backend_dev_t dev) {
    if (ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_CPU) {
        // a context keeps what it has taken, so that the end of its work tells the most
        const device_state now = state_now(dev);
        return now.total - now.free;
    }
    std::ifstream file("/proc/self/status");
    for (std::string word; file >> word;) {
        uint64_t kilobytes = 0;
        if (word == "VmHWM:" && file >> kilobytes) {
            return kilobytes * 1024;
        }
    }
    return 0;
}

std::vector<bench_memory> bench_memory_of(const llama_context * ctx) {
    const llama_model * model = llama_get_model(ctx);
    std::vector<ggml_backend_dev_t> devices;
    for (int32_t i = 0; i < llama_model_n_devices(model); ++i) {
        devices.push_back(llama_model_get_device(model, i));
    }
    devices.push_back(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
    std::vector<bench_memory> result;
    for (ggml_backend_dev_t dev : devices) {
        const auto begin = at_begin.find(dev);
        const device_state state = begin == at_begin.end() ? state_now(dev) : begin->second;
        result.push_back({ dev, state.total, state.free });
    }
    const auto of = [&](ggml_backend_buffer_type_t buft) -> bench_memory & {
        // buffers that a device lends are the host's, too
        const auto at = ggml_backend_buft_is_host(buft) ? devices.end() : std::find(devices.begin(), devices.end(), ggml_backend_buft_get_device(buft));
        return at == devices.end() ? result.back() : result[size_t(at - devices.begin())];
    };
    for (const auto & [buft, bytes] : llama_get_memory_breakdown(ctx)) {
        of(buft).cache   += bytes.context;
        of(buft).compute += bytes.compute;
    }
    // not the buffers: one of a mapped file spans what other buffers hold a copy of
    for (const auto & [_, tensor] : model->tensors_by_name) {
        of(ggml_backend_buffer_get_type(tensor->buffer)).weights += ggml_nbytes(tensor);
    }
    return result;
}

bench_planner::bench_planner(const std::string & path, llama_model_params params) : model(nullptr, llama_model_free) {
    const silence quiet;
    params.no_alloc  = true;
    params.load_mode = LLAMA_LOAD_MODE_NONE;
    model.reset(llama_model_load_from_file(path.c_str(), params));
}

std::optional<std::vector<bench_memory>> bench_planner::plan(const llama_context_params & params) const {
    if (!model) {
        return {};
    }
    const silence quiet;
    const std::unique_ptr<llama_context, decltype(&llama_free)> ctx(llama_init_from_model(model.get(), params), llama_free);
    return ctx ? std::optional(bench_memory_of(ctx.get())) : std::nullopt;
}

const bench_memory * bench_planner::short_of(const std::vector<bench_memory> & plan) {
    const auto it = std::find_if(plan.begin(), plan.end(), [](const bench_memory & m) { return m.needed() > m.free; });
    return it == plan.end() ? nullptr : &*it;
}

bool bench_planner::fits(const llama_context_params & params) const {
    const auto memory = plan(params);
    return memory && !short_of(*memory);
}

// Cells that the devices have room for, were there nothing but the cache.
double bench_planner::most_cells(llama_context_params params) const {
    constexpr uint32_t N = 32768; // beyond most windows, whose cells do not grow with the context
    double cache[2] = { 0, 0 }, free = 0;
    for (const uint32_t i : { 0, 1 }) {
        params.n_ctx = N * (i + 1);
        free = 0;
        for (const bench_memory & m : plan(params).value_or(std::vector<bench_memory>())) {
            cache[i] += double(m.cache);
            free     += double(m.free);
        }
    }
    return cache[1] > cache[0] ? free / ((cache[1] - cache[0]) / N) : 0;
}

uint32_t bench_planner::largest_stock_context(llama_context_params params) const {
    params.duo = llama_duo_default_params();
    // llama.cpp's own cache keeps a record of up to 64 bytes of every cell even where it allocates no rows: they shall take a sixteenth of the free memory
    const double records = double(state_now(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU)).free) / 16 / 64;
    uint32_t good = 0, bad = uint32_t(std::min({ most_cells(params), records, double(1 << 24) }) / 256) + 1;
    while (bad - good > 1) { // what a context takes grows with its size
        const uint32_t n = good + (bad - good) / 2;
        params.n_ctx = 256 * n;
        (fits(params) ? good : bad) = n;
    }
    return 256 * good;
}

std::optional<double> bench_planner::smallest_sparsity(llama_context_params params) const {
    params.duo.threshold = -1;
    params.duo.budget    = -1;
    const auto fits_at = [&](int hundredths) {
        params.duo.sparsity = float(hundredths) / 100;
        return fits(params);
    };
    if (!fits_at(100)) {
        return {};
    }
    int bad = -1, good = 100;
    while (good - bad > 1) {
        const int middle = (good + bad) / 2;
        (fits_at(middle) ? good : bad) = middle;
    }
    return good / 100.0;
}
