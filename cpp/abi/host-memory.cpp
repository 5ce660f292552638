#include "host-memory.h"

#include "ggml-backend.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace duo::abi {

#if defined(__linux__)

// "MemAvailable:  1234 kB" of /proc/meminfo, in bytes.
static std::optional<uint64_t> meminfo(const std::string & key) {
    std::ifstream file("/proc/meminfo");
    std::string name;
    uint64_t    kilobytes = 0;
    std::string unit;
    while (file >> name >> kilobytes) {
        std::getline(file, unit);
        if (name == key + ":") {
            return kilobytes * 1024;
        }
    }
    return {};
}

static std::optional<uint64_t> number_in(const std::string & path) {
    std::ifstream file(path);
    uint64_t n = 0;
    return file >> n ? std::optional(n) : std::nullopt; // "max" is no number
}

// Pages of files in a control group's memory.stat, which it drops where memory is wanted.
static uint64_t droppable(const std::string & group) {
    std::ifstream file(group + "/memory.stat");
    std::string key;
    uint64_t    value = 0;
    uint64_t    sum   = 0;
    while (file >> key >> value) {
        sum += key == "inactive_file" || key == "active_file" ? value : 0;
    }
    return sum;
}

// A limit of a control group (version 2) holds for the groups below it, too.
static void limit_by_groups(host_memory & m) {
    std::ifstream file("/proc/self/cgroup");
    std::string line;
    while (std::getline(file, line)) {
        if (line.rfind("0::", 0) != 0) {
            continue;
        }
        std::string group = line.substr(3);
        while (!group.empty() && group.back() == '/') {
            group.pop_back();
        }
        for (;;) {
            const std::string path = "/sys/fs/cgroup" + group;
            const auto limit = number_in(path + "/memory.max");
            const auto taken = number_in(path + "/memory.current");
            if (limit && taken) {
                const uint64_t held = *taken - std::min(*taken, droppable(path));
                m.total_bytes = std::min(m.total_bytes, *limit);
                m.free_bytes  = std::min(m.free_bytes, *limit - std::min(*limit, held));
            }
            if (group.empty()) {
                return;
            }
            group.resize(group.rfind('/'));
        }
    }
}

#endif

host_memory host_memory_now() {
    size_t free  = 0;
    size_t total = 0;
    ggml_backend_dev_memory(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), &free, &total);
    host_memory m = { total, free };
#if defined(__linux__)
    m.free_bytes = meminfo("MemAvailable").value_or(m.free_bytes);
    limit_by_groups(m);
#endif
    return m;
}

} // namespace duo::abi
