#include "bench-duo.h"

#include "arg.h"
#include "common.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace {

struct sweep_flag {
    common_arg               arg;
    std::vector<std::string> values; // as numbers are written in every format

    enum { TEXT, COUNT, NUMBER } kind;

    std::string name()  const { return arg.args.front(); }
    std::string field() const {
        std::string field = name().substr(2);
        std::replace(field.begin(), field.end(), '-', '_');
        return field;
    }
};

// The other tools' flags, in their order.
std::vector<sweep_flag> & flags() {
    static std::vector<sweep_flag> all = [] {
        std::vector<sweep_flag> flags;
        common_duo_add_args([&](const common_arg & arg) {
            const std::string hint = arg.value_hint;
            flags.push_back({ arg, {}, hint == "FILE" || hint == "SIZE" ? sweep_flag::TEXT : hint == "N" ? sweep_flag::COUNT : sweep_flag::NUMBER });
        });
        return flags;
    }();
    return all;
}

sweep_flag * find(const std::string & field) {
    const auto it = std::find_if(flags().begin(), flags().end(), [&](const sweep_flag & flag) { return flag.field() == field; });
    return it == flags().end() ? nullptr : &*it;
}

std::vector<std::string> split_counts(const sweep_flag & flag, const std::string & text, bench_duo_read_counts read_counts) {
    std::vector<std::string> counts;
    try {
        for (const int count : read_counts(text, /*allow_negative=*/false)) {
            counts.push_back(std::to_string(count));
        }
    } catch (const std::exception &) {
        counts.clear();
    }
    if (counts.empty()) {
        throw std::invalid_argument(string_format("%s is \"%s\"; expected integers with commas between, or a range", flag.name().c_str(), text.c_str()));
    }
    return counts;
}

void add_values(sweep_flag & flag, const std::string & text, bench_duo_read_counts read_counts) {
    const bool counts = flag.kind == sweep_flag::COUNT;
    for (const std::string & value : counts ? split_counts(flag, text, read_counts) : string_split<std::string>(text, ',')) {
        common_params checked;
        flag.arg.handler_string(checked, value);
        flag.values.push_back(flag.kind == sweep_flag::NUMBER ? string_format("%.15g", std::stod(value)) : value);
    }
}

std::string last_error;

} // namespace

void bench_duo_print_usage() {
    for (const sweep_flag & flag : flags()) {
        // what a flag's help begins with in the other tools, and where the rest begins
        constexpr size_t n_left = 40;
        for (const std::string & line : string_split<std::string>(flag.arg.to_string(), '\n')) {
            if (line.size() > n_left) {
                printf("  %-50s%s\n", line.substr(0, n_left).c_str(), line.substr(n_left).c_str());
            }
        }
    }
}

bool bench_duo_parse(int argc, char ** argv, int & i, bench_duo_read_counts read_counts) {
    std::string field = argv[i];
    if (field.compare(0, 2, "--") != 0) {
        return false;
    }
    field.erase(0, 2);
    std::replace(field.begin(), field.end(), '-', '_');
    sweep_flag * flag = find(field);
    if (!flag) {
        return false;
    }
    if (++i >= argc) {
        throw std::invalid_argument(flag->name() + " needs a value");
    }
    add_values(*flag, argv[i], read_counts);
    return true;
}

void bench_duo_read_variables(bench_duo_read_counts read_counts) {
    for (sweep_flag & flag : flags()) {
        std::string text;
        if (!flag.arg.get_value_from_env(text)) {
            continue;
        }
        if (!flag.values.empty()) {
            fprintf(stderr, "warn: %s environment variable is set, but will be overwritten by command line argument %s\n", flag.arg.env, flag.name().c_str());
            continue;
        }
        try {
            add_values(flag, text, read_counts);
        } catch (const std::exception & e) {
            fprintf(stderr, "error while handling environment variable \"%s\": %s\n", flag.arg.env, e.what());
            exit(1);
        }
    }
}

std::vector<bench_duo_values> bench_duo_combinations() {
    std::vector<std::pair<common_params, std::vector<std::string>>> all(1);
    for (const sweep_flag & flag : flags()) {
        if (flag.values.empty()) {
            continue;
        }
        const auto before = std::move(all);
        all.clear();
        for (const auto & [params, texts] : before) {
            for (const std::string & value : flag.values) {
                all.push_back({ params, texts });
                flag.arg.handler_string(all.back().first, value);
                all.back().second.push_back(value);
            }
        }
    }
    std::vector<bench_duo_values> result;
    for (const auto & [params, texts] : all) {
        result.push_back({ params.duo, texts });
    }
    return result;
}

void bench_duo_check(const std::vector<llama_flash_attn_type> & flash_attns, const std::vector<llama_split_mode> & split_modes) {
    for (const bench_duo_values & values : bench_duo_combinations())
    for (const llama_flash_attn_type flash_attn : flash_attns)
    for (const llama_split_mode split_mode : split_modes) {
        common_params params;
        params.duo             = values.duo;
        params.flash_attn_type = flash_attn;
        params.split_mode      = split_mode;
        try {
            common_duo_check_options(params);
        } catch (const std::exception & e) {
            fprintf(stderr, "error: %s\n", e.what());
            exit(1);
        }
    }
}

std::vector<std::string> bench_duo_columns() {
    std::vector<std::string> columns;
    for (const sweep_flag & flag : flags()) {
        if (!flag.values.empty()) {
            columns.push_back(flag.field());
        }
    }
    return columns;
}

std::vector<std::string> bench_duo_append(std::vector<std::string> list, const std::vector<std::string> & ours) {
    list.insert(list.end(), ours.begin(), ours.end());
    return list;
}

bool bench_duo_is_count(const std::string & field) {
    const sweep_flag * flag = find(field);
    return flag && flag->kind == sweep_flag::COUNT;
}

bool bench_duo_is_number(const std::string & field) {
    const sweep_flag * flag = find(field);
    return flag && flag->kind == sweep_flag::NUMBER;
}

void bench_duo_keep_error(ggml_log_level level, const char * text) {
    static bool continues = false;
    continues = level == GGML_LOG_LEVEL_ERROR || (level == GGML_LOG_LEVEL_CONT && continues);
    if (!continues || bench_duo_columns().empty()) {
        return;
    }
    last_error = level == GGML_LOG_LEVEL_CONT ? last_error + text : text;
}

void bench_duo_print_error() {
    fputs(last_error.c_str(), stderr);
}
