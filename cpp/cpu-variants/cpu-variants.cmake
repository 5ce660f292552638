# The CPU backend once for each generation of a processor's instructions, all in one library, and what picks one of them when the library starts.
#
# llama.cpp's own way, GGML_CPU_ALL_VARIANTS, makes every variant a shared object to be found and opened at run time, and ggml shared objects beside them. Ours is for
# packages whose library shares its process with other copies of ggml, and is one file in a compiled program: each variant is linked into one object, whose symbols are
# made local but for the few that cpu-variants.cpp calls, under names of their own. Local, too, are the inline functions of C++, compiled for the variant's
# processors: the linker would otherwise take any one variant's for all of the library.

# DUO_CPU_VARIANTS, the one to prefer first and the one that the whole library needs last; of each duo_<variant>_flags for the compiler, duo_<variant>_definitions for
# llama.cpp and duo_<variant>_registers (cpu-variants.cpp); DUO_CPU_ARCH, llama.cpp's folder; and duo_cpu_baseline, for everything outside the variants.
include(${CMAKE_CURRENT_LIST_DIR}/${CMAKE_SYSTEM_PROCESSOR}.cmake)

# What the rest of the library calls of the CPU backend.
set(DUO_CPU_FUNCTIONS ggml_backend_cpu_init ggml_backend_cpu_reg ggml_backend_cpu_set_n_threads ggml_backend_is_cpu)

# Replaces what ggml-cpu is made of, all of which has been given to it by now.
function(duo_cpu_variants llama_cpp_dir)
    get_target_property(sources ggml-cpu SOURCES)
    list(FILTER sources EXCLUDE REGEX "\\.h$")
    list(TRANSFORM sources PREPEND ${llama_cpp_dir}/ggml/src/ REGEX "^[^/]")
    set(objects)
    set(entries)
    foreach(variant ${DUO_CPU_VARIANTS})
        add_library(ggml-cpu-${variant} OBJECT EXCLUDE_FROM_ALL ${sources})
        target_link_libraries(ggml-cpu-${variant} PRIVATE ggml-base)
        target_include_directories(ggml-cpu-${variant} PRIVATE $<TARGET_PROPERTY:ggml-cpu,INCLUDE_DIRECTORIES>)
        target_compile_definitions(ggml-cpu-${variant} PRIVATE $<TARGET_PROPERTY:ggml-cpu,COMPILE_DEFINITIONS> ${duo_${variant}_definitions})
        target_compile_options(ggml-cpu-${variant} PRIVATE $<TARGET_PROPERTY:ggml-cpu,COMPILE_OPTIONS> ${duo_${variant}_flags})
        target_compile_features(ggml-cpu-${variant} PRIVATE c_std_11 cxx_std_17)
        if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
            target_compile_options(ggml-cpu-${variant} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fno-gnu-unique>) # which could not be made local
        endif()

        # llama.cpp's own check of a processor, compiled for all of them.
        add_library(ggml-cpu-${variant}-score OBJECT EXCLUDE_FROM_ALL ${llama_cpp_dir}/ggml/src/ggml-cpu/arch/${DUO_CPU_ARCH}/cpu-feats.cpp)
        target_include_directories(ggml-cpu-${variant}-score PRIVATE ${llama_cpp_dir}/ggml/src ${llama_cpp_dir}/ggml/include)
        target_compile_definitions(ggml-cpu-${variant}-score PRIVATE ${duo_${variant}_definitions} GGML_BACKEND_DL ggml_backend_score=ggml_backend_score_${variant})

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

        string(APPEND entries "VARIANT(${variant}, ${duo_${variant}_registers})\n")
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
