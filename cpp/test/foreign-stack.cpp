// For the shared library under AddressSanitizer. koffi calls on a stack of its own, which the sanitizer does not know: where an exception is thrown on it, the frames
// that it leaves stay poisoned, and what runs next in their place would be reported. Below a frame that catches, nothing is in use.
// Linked with --wrap=__cxa_begin_catch.
#include <sanitizer/asan_interface.h>

#include <cstddef>

extern "C" void * __real___cxa_begin_catch(void * exception) noexcept;

extern "C" __attribute__((noinline)) void * __wrap___cxa_begin_catch(void * exception) noexcept {
    constexpr size_t n = 256 * 1024;
    __asan_unpoison_memory_region(static_cast<char *>(__builtin_frame_address(0)) - n, n);
    return __real___cxa_begin_catch(exception);
}
