#include "duo-layout.h"

#include "duo-config.h"

#include "mixed-attention.h"

#include <algorithm>

// The ring's number; one is added where there is none like it.
static int32_t find_or_add(duo_stream::rings & rings, const duo_ring & ring) {
    const auto same = [&](const duo_ring & r) { return r.sink == ring.sink && r.recent == ring.recent && r.chunk == ring.chunk && r.n_ring == ring.n_ring; };
    const auto it = std::find_if(rings.begin(), rings.end(), same);
    if (it != rings.end()) {
        return int32_t(it - rings.begin());
    }
    rings.push_back(ring);
    return int32_t(rings.size()) - 1;
}

duo_layout::duo_layout(const duo_config & config, uint32_t n_ctx_seq) {
    for (size_t il = 0; il < config.layers.size(); ++il) {
        const duo_layer & l = config.layers[il];
        layer out;
        out.stored_by = l.stored_by;
        for (const int32_t recent : l.recent) {
            if (l.stored_by != il) {
                break;
            }
            head h = { 0, n_ctx_seq, -1 };
            if (recent != GGML_MIXED_ATTN_ALL) {
                h.n_cells = uint32_t(std::min<int64_t>(config.n_cells(l, recent), n_ctx_seq));
                // where the sinks fill the context, no position reaches the ring
                h.i_ring  = find_or_add(rings, { l.sink, recent, l.chunk, std::max(1, int32_t(h.n_cells) - l.sink) });
            }
            out.heads.push_back(h);
        }
        // heads that keep the same cells lie together
        for (int32_t i = -1; i < int32_t(rings.size()); ++i) {
            for (head & h : out.heads) {
                if (h.i_ring == i) {
                    h.first_row = int32_t(out.n_rows);
                    out.n_rows += h.n_cells;
                }
            }
        }
        layers.push_back(std::move(out));
    }
}
