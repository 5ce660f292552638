/**
 * A template that tells of tools, and calls them as bare JSON. So `{` as the first token of an answer begins a call, and a grammar that requires one allows
 * nothing but a call from there on.
 */
export const toolTemplate = `{%- if tools -%}
{{- '[tools]' + (tools | tojson) + '\\n' -}}
{%- endif -%}
{%- for m in messages -%}
{{- '[' + m.role + ']' -}}
{%- if m.tool_calls -%}
{%- for call in m.tool_calls -%}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}' -}}
{%- endfor -%}
{%- else -%}
{{- m.content -}}
{%- endif -%}
{{- '[end]\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '[assistant]' -}}
{%- endif -%}`;

/** A template that knows of reasoning. */
export const thinkingTemplate = `{%- for m in messages -%}
{{- '[' + m.role + ']' -}}
{%- if m.role == 'assistant' and m.reasoning_content -%}
{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- m.content + '[end]\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '[assistant]' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}`;
