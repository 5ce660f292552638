# The CPU backend once for each generation of x86-64 processors, all in one library, and what picks one of them when the library starts.
#
# llama.cpp's own way, GGML_CPU_ALL_VARIANTS, makes every variant a shared object to be found and opened at run time, and ggml shared objects beside them. Ours is for
# packages whose library shares its process with other copies of ggml, and is one file in a compiled program: each variant is linked into one object, whose symbols are
# made local but for the few that cpu-variants.cpp calls, under names of their own. Local, too, are the inline functions of C++, compiled for the variant's
# processors: the linker would otherwise take any one variant's for all of the library.

# What each variant is compiled for, in llama.cpp's words, the one to prefer first. The last is what the whole library needs: x86-64-v2.
set(DUO_CPU_VARIANTS sapphirerapids zen4 icelake cascadelake skylakex alderlake haswell x86_64_v2)
set(duo_x86_64_v2      SSE42)
set(duo_haswell        ${duo_x86_64_v2} AVX F16C FMA AVX2 BMI2)
set(duo_alderlake      ${duo_haswell} AVX_VNNI)
set(duo_skylakex       ${duo_haswell} AVX512)
set(duo_cascadelake    ${duo_skylakex} AVX512_VNNI)
set(duo_icelake        ${duo_cascadelake} AVX512_VBMI)
set(duo_zen4           ${duo_icelake} AVX512_BF16)
set(duo_sapphirerapids ${duo_zen4} AMX_TILE AMX_INT8)

# The compiler's flags for each.
set(duo_flags_SSE42       -msse4.2)
set(duo_flags_AVX         -mavx)
set(duo_flags_F16C        -mf16c)
set(duo_flags_FMA         -mfma)
set(duo_flags_AVX2        -mavx2)
set(duo_flags_BMI2        -mbmi2)
set(duo_flags_AVX_VNNI    -mavxvnni)
set(duo_flags_AVX512      -mavx512f -mavx512cd -mavx512vl -mavx512dq -mavx512bw)
set(duo_flags_AVX512_VNNI -mavx512vnni)
set(duo_flags_AVX512_VBMI -mavx512vbmi)
set(duo_flags_AVX512_BF16 -mavx512bf16)
set(duo_flags_AMX_TILE    -mamx-tile)
set(duo_flags_AMX_INT8    -mamx-int8)

# What the rest of the library calls of the CPU backend.
set(DUO_CPU_FUNCTIONS ggml_backend_cpu_init ggml_backend_cpu_reg ggml_backend_cpu_set_n_threads ggml_backend_is_cpu)

# Before llama.cpp's CMakeLists are read: everything outside the variants runs on each of the processors.
macro(duo_cpu_baseline)
    set(GGML_NATIVE OFF CACHE BOOL "" FORCE)
    foreach(feature AVX AVX_VNNI AVX2 BMI2 AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16 FMA F16C AMX_TILE AMX_INT8 AMX_BF16)
        set(GGML_${feature} OFF CACHE BOOL "" FORCE)
    endforeach()
    set(GGML_SSE42 ON CACHE BOOL "" FORCE)
    add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-march=x86-64-v2>)
endmacro()

# Replaces what ggml-cpu is made of, all of which has been given to it by now.
function(duo_cpu_variants llama_cpp_dir)
    get_target_property(sources ggml-cpu SOURCES)
    list(FILTER sources EXCLUDE REGEX "\\.h$")
    list(TRANSFORM sources PREPEND ${llama_cpp_dir}/ggml/src/ REGEX "^[^/]")
    set(objects)
    set(entries)
    foreach(variant ${DUO_CPU_VARIANTS})
        set(flags)
        set(definitions)
        foreach(feature ${duo_${variant}})
            list(APPEND flags ${duo_flags_${feature}})
            list(APPEND definitions GGML_${feature})
        endforeach()

        add_library(ggml-cpu-${variant} OBJECT EXCLUDE_FROM_ALL ${sources})
        target_link_libraries(ggml-cpu-${variant} PRIVATE ggml-base)
        target_include_directories(ggml-cpu-${variant} PRIVATE $<TARGET_PROPERTY:ggml-cpu,INCLUDE_DIRECTORIES>)
        target_compile_definitions(ggml-cpu-${variant} PRIVATE $<TARGET_PROPERTY:ggml-cpu,COMPILE_DEFINITIONS> ${definitions})
        target_compile_options(ggml-cpu-${variant} PRIVATE $<TARGET_PROPERTY:ggml-cpu,COMPILE_OPTIONS> ${flags})
        target_compile_features(ggml-cpu-${variant} PRIVATE c_std_11 cxx_std_17)
        if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
            target_compile_options(ggml-cpu-${variant} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fno-gnu-unique>) # which could not be made local
        endif()

        # llama.cpp's own check of a processor, compiled for all of them.
        add_library(ggml-cpu-${variant}-score OBJECT EXCLUDE_FROM_ALL ${llama_cpp_dir}/ggml/src/ggml-cpu/arch/x86/cpu-feats.cpp)
        target_include_directories(ggml-cpu-${variant}-score PRIVATE ${llama_cpp_dir}/ggml/src ${llama_cpp_dir}/ggml/include)
        target_compile_definitions(ggml-cpu-${variant}-score PRIVATE ${definitions} GGML_BACKEND_DL ggml_backend_score=ggml_backend_score_${variant})

        set(linked ${CMAKE_CURRENT_BINARY_DIR}/ggml-cpu-${variant}.linked.o)
        set(object ${CMAKE_CURRENT_BINARY_DIR}/ggml-cpu-${variant}.o)
        set(rename)
        set(keep)
        foreach(function ${DUO_CPU_FUNCTIONS})
            list(APPEND rename --redefine-sym ${function}=${function}_${variant})
            list(APPEND keep --keep-global-symbol=${function}_${variant})
        endforeach()
        add_custom_command(OUTPUT ${object}
            COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o ${linked} $<TARGET_OBJECTS:ggml-cpu-${variant}>
            COMMAND ${CMAKE_OBJCOPY} ${rename} ${linked}
            COMMAND ${CMAKE_OBJCOPY} ${keep} ${linked} ${object}
            COMMAND ${CMAKE_COMMAND} -E rm ${linked}
            DEPENDS ggml-cpu-${variant} $<TARGET_OBJECTS:ggml-cpu-${variant}>
            COMMAND_EXPAND_LISTS VERBATIM)
        list(APPEND objects ${object} $<TARGET_OBJECTS:ggml-cpu-${variant}-score>)

        set(registers SSE)
        foreach(feature AVX AVX512 AMX_TILE)
            if(feature IN_LIST duo_${variant})
                string(REGEX MATCH "^[A-Z0-9]+" registers ${feature})
            endif()
        endforeach()
        string(APPEND entries "VARIANT(${variant}, ${registers})\n")
    endforeach()

    file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/cpu-variants/cpu-variants.def.new "${entries}")
    configure_file(${CMAKE_CURRENT_BINARY_DIR}/cpu-variants/cpu-variants.def.new ${CMAKE_CURRENT_BINARY_DIR}/cpu-variants/cpu-variants.def COPYONLY)

    # A target's objects cannot be made in another folder's build, so they are a target of this one that ggml-cpu waits for.
    add_custom_target(ggml-cpu-variants DEPENDS ${objects})
    set_source_files_properties(${objects} TARGET_DIRECTORY ggml-cpu PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    set_property(TARGET ggml-cpu PROPERTY SOURCES ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/cpu-variants.cpp ${objects})
    target_include_directories(ggml-cpu PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/cpu-variants)
    add_dependencies(ggml-cpu ggml-cpu-variants)
endfunction()
