// The operations of the row `fence`: each call becomes an entry of its lane's queue, with the
// host's structs copied as a launcher would read them, and runs the CPU's kernel when the queue
// runs. A pointer that must be the device's and is not ends the program with the operation's name.
#include "fence.h"

#include <cstdlib>
#include <new>
#include <tuple>
#include <type_traits>

namespace
{

// What an entry keeps of an argument: a value as it is, the host's struct by value.
template <class T> struct kept {
    T v;
    kept(T x, const char *op) : v(x)
    {
        if constexpr (std::is_pointer_v<T>)
            fence_check(op, v);
    }
    T get() const
    {
        return v;
    }
};

template <class S> struct kept_struct {
    S v{};
    bool null;
    kept_struct(const S *x, const char *op) : null(!x)
    {
        if (x) {
            v = *x;
            check(op);
        }
    }
    void check(const char *op) const;
    const S *get() const
    {
        return null ? nullptr : &v;
    }
};

template <> void kept_struct<kernel_ctx>::check(const char *op) const
{
    fence_check(op, v.work);
}
template <> void kept_struct<kernel_weight>::check(const char *op) const
{
    fence_check(op, v.w);
    fence_check(op, v.packed);
}
template <> void kept_struct<kernel_linear>::check(const char *op) const
{
    fence_check(op, v.w.w);
    fence_check(op, v.w.packed);
}
template <> void kept_struct<kernel_seqs>::check(const char *op) const
{
    fence_check(op, v.start);
}
template <> void kept_struct<kernel_attn>::check(const char *op) const
{
    fence_check(op, v.log_size);
}
template <> void kept_struct<kernel_merge>::check(const char *) const
{
}
template <> void kept_struct<kernel_heads>::check(const char *) const
{
}
template <> void kept_struct<kernel_rope>::check(const char *op) const
{
    fence_check(op, v.cosine);
    fence_check(op, v.sine);
}
template <> void kept_struct<kernel_optim>::check(const char *) const
{
}
template <> void kept_struct<kernel_ranges>::check(const char *op) const
{
    fence_check(op, v.range);
}
template <> void kept_struct<kernel_fisher>::check(const char *op) const
{
    fence_check(op, v.ema);
    fence_check(op, v.sum);
    fence_check(op, v.grad);
}
template <> void kept_struct<kernel_cache>::check(const char *op) const
{
    fence_check(op, v.k);
    fence_check(op, v.v);
    fence_check(op, v.n);
}

#define HOST_STRUCT(S)                                                                             \
    template <> struct kept<const S *> : kept_struct<S> {                                          \
        using kept_struct<S>::kept_struct;                                                         \
    };
HOST_STRUCT(kernel_ctx)
HOST_STRUCT(kernel_weight)
HOST_STRUCT(kernel_linear)
HOST_STRUCT(kernel_seqs)
HOST_STRUCT(kernel_attn)
HOST_STRUCT(kernel_merge)
HOST_STRUCT(kernel_heads)
HOST_STRUCT(kernel_rope)
HOST_STRUCT(kernel_optim)
HOST_STRUCT(kernel_ranges)
HOST_STRUCT(kernel_fisher)
HOST_STRUCT(kernel_cache)

template <class F> struct call;
template <class... A> struct call<void (*)(const kernel_ctx *, A...)> {
    using kernel = void (*)(const kernel_ctx *, A...);
    struct entry {
        kernel fn;
        std::tuple<kept<const kernel_ctx *>, kept<A>...> args;
    };
    static void run(void *p)
    {
        entry *e = static_cast<entry *>(p);
        std::apply([e](const auto &...a) { e->fn(a.get()...); }, e->args);
    }
    static void drop(void *p)
    {
        std::free(p);
    }
    template <kernel Fn, const char *const &Name> static void queue(const kernel_ctx *cx, A... a)
    {
        void *p = std::malloc(sizeof(entry)); // and no C++ library to link
        if (!p)
            std::abort();
        fence_queue(cx->stream, run, drop, new (p) entry{Fn, {{cx, Name}, {a, Name}...}});
    }
};

#define FENCE_NAME(name) const char *const name_of_##name = #name;
KERNEL_OPS(FENCE_NAME)

} // namespace

extern "C" const struct kernel_ops fence_ops = {
#define FENCE_OP(name) call<name##_fn *>::queue<name##_cpu, name_of_##name>,
    KERNEL_OPS(FENCE_OP)};
