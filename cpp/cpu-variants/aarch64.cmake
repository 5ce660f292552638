# The variants for 64-bit Arm processors: the first has products of 8-bit matrices (since 2020), the second those of 8-bit vectors and arithmetic in half precision (since 2018), the
# last what all have. Vectors of other lengths (SVE) would be variants of their own, and this project's operator has no code for them.

set(DUO_CPU_ARCH arm)
set(DUO_CPU_VARIANTS armv8_6 armv8_2 armv8_0)

set(duo_armv8_0_flags -march=armv8-a)
set(duo_armv8_0_definitions)
set(duo_armv8_2_flags -march=armv8.2-a+dotprod+fp16)
set(duo_armv8_2_definitions GGML_USE_DOTPROD GGML_USE_FP16_VECTOR_ARITHMETIC)
set(duo_armv8_6_flags -march=armv8.2-a+dotprod+fp16+i8mm)
set(duo_armv8_6_definitions ${duo_armv8_2_definitions} GGML_USE_MATMUL_INT8)

# All have the same registers.
foreach(variant ${DUO_CPU_VARIANTS})
    set(duo_${variant}_registers NEON)
endforeach()

# Before llama.cpp's CMakeLists are read: everything outside the variants runs on each of the processors.
macro(duo_cpu_baseline)
    set(GGML_CPU_ARM_ARCH armv8-a CACHE STRING "" FORCE)
    add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-march=armv8-a>)
endmacro()
