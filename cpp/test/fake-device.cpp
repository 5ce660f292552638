#include "fake-device.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "mixed-attention.h"

#include <cstring>

struct fake_device::parts {
    fake_device * self;
    std::string   name;
    bool          has_operator;
    bool          has_flash;

    ggml_backend_reg         reg    = {};
    ggml_backend_device      device = {};
    ggml_backend_buffer_type buft   = {};

    static parts * of(ggml_backend_dev_t dev) { return (parts *) dev->context; }
    static parts * of(ggml_backend_buffer_type_t buft) { return (parts *) buft->context; }
    static fake_device * self_of(ggml_backend_t backend) { return of(backend->device)->self; }

    static ggml_backend_dev_t cpu() { return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); }

    // The CPU's buffers, under this device's type.
    static ggml_backend_buffer_t alloc(ggml_backend_buffer_type_t buft, size_t size) {
        ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
        if (buffer) {
            buffer->buft = buft;
            of(buft)->self->n_buffers++;
            of(buft)->self->n_bytes += size;
        }
        return buffer;
    }

    static ggml_status compute(ggml_backend_t backend, ggml_cgraph * graph) {
        for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
            self_of(backend)->n_attended += ggml_graph_node(graph, i)->op == GGML_OP_MIXED_ATTN;
            self_of(backend)->n_flash    += ggml_graph_node(graph, i)->op == GGML_OP_FLASH_ATTN_EXT;
        }
        return ggml_backend_graph_compute((ggml_backend_t) backend->context, graph);
    }

    static ggml_backend_t init(ggml_backend_dev_t dev, const char *) {
        static ggml_guid guid = { 0xd0, 0x0f, 0xa6, 0xe0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
        ggml_backend_t inner = ggml_backend_cpu_init();
        ggml_backend_cpu_set_n_threads(inner, 2);
        ggml_backend_i iface = {};
        iface.get_name      = [](ggml_backend_t b) { return of(b->device)->name.c_str(); };
        iface.free          = [](ggml_backend_t b) { ggml_backend_free((ggml_backend_t) b->context); delete b; };
        iface.graph_compute = compute;
        return new ggml_backend { &guid, iface, dev, inner };
    }
};

fake_device::fake_device(const std::string & name, bool has_operator, bool has_flash) : p(new parts) {
    p->self         = this;
    p->name         = name;
    p->has_operator = has_operator;
    p->has_flash    = has_flash;

    p->reg.api_version            = GGML_BACKEND_API_VERSION;
    p->reg.context                = p.get();
    p->reg.iface.get_name         = [](ggml_backend_reg_t) { return "fake"; };
    p->reg.iface.get_device_count = [](ggml_backend_reg_t) { return size_t(1); };
    p->reg.iface.get_device       = [](ggml_backend_reg_t reg, size_t) { return &((parts *) reg->context)->device; };

    p->reg.iface.get_proc_address = [](ggml_backend_reg_t, const char * name) -> void * {
        const ggml_mixed_attn_slow_reason_t reason = [](ggml_mixed_attn_shape) { return fake_device::slow_reason; };
        return strcmp(name, GGML_MIXED_ATTN_SLOW_REASON) == 0 && slow_reason ? (void *) reason : nullptr;
    };

    p->buft.device              = &p->device;
    p->buft.context             = p.get();
    p->buft.iface.get_name      = [](ggml_backend_buffer_type_t buft) { return parts::of(buft)->name.c_str(); };
    p->buft.iface.alloc_buffer  = parts::alloc;
    p->buft.iface.get_alignment = [](ggml_backend_buffer_type_t) { return ggml_backend_buft_get_alignment(ggml_backend_cpu_buffer_type()); };

    p->device.reg     = &p->reg;
    p->device.context = p.get();
    ggml_backend_device_i & d = p->device.iface;
    d.get_name        = [](ggml_backend_dev_t dev) { return parts::of(dev)->name.c_str(); };
    d.get_description = d.get_name;
    d.get_memory      = [](ggml_backend_dev_t dev, size_t * free, size_t * total) { *free = parts::of(dev)->self->free_bytes; *total = parts::of(dev)->self->total_bytes; };
    d.get_type        = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    d.get_props       = [](ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
        *props = {};
        props->name        = ggml_backend_dev_name(dev);
        props->description = ggml_backend_dev_description(dev);
        props->type        = ggml_backend_dev_type(dev);
        ggml_backend_dev_memory(dev, &props->memory_free, &props->memory_total);
    };
    d.init_backend    = parts::init;
    d.get_buffer_type = [](ggml_backend_dev_t dev) { return &parts::of(dev)->buft; };
    d.supports_buft   = [](ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft) { return buft == &parts::of(dev)->buft; };
    d.supports_op     = [](ggml_backend_dev_t dev, const ggml_tensor * op) {
        return (op->op != GGML_OP_MIXED_ATTN || parts::of(dev)->has_operator) && (op->op != GGML_OP_FLASH_ATTN_EXT || parts::of(dev)->has_flash) &&
               ggml_backend_dev_supports_op(parts::cpu(), op);
    };
}

fake_device::~fake_device() = default;

ggml_backend_dev_t         fake_device::device()      { return &p->device; }
ggml_backend_buffer_type_t fake_device::buffer_type() { return &p->buft; }
