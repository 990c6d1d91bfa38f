# Stands for vLLM's build rules. The fork must leave this folder as it is.
