#include "gates.h"

#include "gate-gguf.h"
#include "gate-pattern.h"
#include "head-selection.h"

namespace duo::abi {

job_error gates_job_error(const gate_error & e) {
    const auto * shape = dynamic_cast<const gate_shape_error *>(&e);
    return job_error("gates", e.what(), shape ? json { { "patternShape", shape->pattern }, { "modelShape", shape->model } } : json::object());
}

gates_read_options gates_read_options::read(options o) {
    gates_read_options result;

    result.path     = o.string("path");
    const auto text = o.string("text");
    result.source   = o.string("source").value_or("<text>");
    o.finish();

    if (result.path.has_value() == text.has_value()) {
        throw o.error("path", "either \"path\" or \"text\" and not both");
    }
    if (result.path && (result.path->empty() || result.path->find('\0') != std::string::npos)) {
        throw o.error("path", "the path of a gate pattern: a folder, a TSV, JSON or GGUF file");
    }
    result.text = text.value_or("");
    return result;
}

void read_selection(options & o, std::optional<double> & sparsity, std::optional<double> & threshold) {
    sparsity  = o.number("sparsity", 0, 1);
    threshold = o.number("threshold", 0, 1);
    if (sparsity && threshold) {
        throw o.error("threshold", "no threshold beside a sparsity: they are two ways to choose heads");
    }
}

static std::string read_pattern(options & o) {
    const json * pattern = o.value("pattern");
    if (!pattern || !pattern->is_object()) {
        throw o.error("pattern", "a gate pattern object");
    }
    return dump(*pattern);
}

gates_select_options gates_select_options::read(options o) {
    gates_select_options result;

    result.pattern = read_pattern(o);
    read_selection(o, result.sparsity, result.threshold);

    if (const json * v = o.value("kvHeads")) {
        result.n_head_kv.emplace();
        for (const auto & n : v->is_array() ? *v : json::array({ json() })) {
            if (!n.is_number_integer() || n < 0 || n > 65536) {
                throw o.error("kvHeads", "an array with the number of KV heads of each layer");
            }
            result.n_head_kv->push_back(n.get<int32_t>());
        }
    }
    o.finish();
    return result;
}

gates_embed_options gates_embed_options::read(options o) {
    gates_embed_options result;

    result.pattern = read_pattern(o);
    const auto path = [&](const char * key, const char * expected) {
        const auto given = o.string(key);
        if (!given || given->empty() || given->find('\0') != std::string::npos) {
            throw o.error(key, expected);
        }
        return *given;
    };
    result.model  = path("model", "the path of a GGUF file");
    result.target = path("target", "the path of the copy");
    o.finish();
    return result;
}

void embed_gates(job & j, const gates_embed_options & o) {
    try {
        const auto pattern = parse_gate_pattern(o.pattern, "option \"pattern\"");
        const bool done = embed_gate_pattern(pattern, o.model, o.target, [&](double progress) {
            j.set_progress(progress);
            return !j.cancelled();
        });
        if (!done) {
            throw job_cancelled();
        }
        j.finish([&] { return json { { "target", o.target } }; });
    } catch (const gate_error & e) {
        throw gates_job_error(e);
    }
}

void read_gates(job & j, const gates_read_options & o) {
    try {
        const auto pattern = o.path ? load_gate_pattern(*o.path) : parse_gate_pattern(o.text, o.source);
        j.finish([&] { return json::parse(gate_pattern_to_json(pattern)); });
    } catch (const gate_error & e) {
        throw gates_job_error(e);
    }
}

void select_heads(job & j, const gates_select_options & o) {
    try {
        const auto pattern = parse_gate_pattern(o.pattern, "option \"pattern\"");

        // a layer may have fewer heads than the widest: its row is shorter
        std::vector<int32_t> n_head_kv;
        if (o.n_head_kv) {
            n_head_kv = *o.n_head_kv;
        } else {
            for (int32_t il = 0; il < pattern.n_layer; ++il) {
                n_head_kv.push_back(pattern.n_head(il));
            }
        }

        const auto heads = o.threshold ? select_by_threshold(pattern, n_head_kv, *o.threshold)
                                       : select_by_sparsity (pattern, n_head_kv, o.sparsity.value_or(0.5));
        j.finish([&] {
            return json {
                { "streaming",      heads.streaming },
                { "retrievalHeads", heads.n_retrieval() },
                { "streamingHeads", heads.n_streaming() },
            };
        });
    } catch (const gate_error & e) {
        throw gates_job_error(e);
    }
}

} // namespace duo::abi
