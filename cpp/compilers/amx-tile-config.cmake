# Mends what GCC makes of AMX's configuration in llama.cpp's kernels, patched or not: amx-tile-config.h says how.
function(duo_mend_amx llama_cpp_dir)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        set_source_files_properties(${llama_cpp_dir}/ggml/src/ggml-cpu/amx/mmq.cpp TARGET_DIRECTORY ggml-cpu
            PROPERTIES COMPILE_OPTIONS "-include;${CMAKE_CURRENT_FUNCTION_LIST_DIR}/amx-tile-config.h")
    endif()
endfunction()
