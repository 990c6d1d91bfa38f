// Stands for what vLLM compiles. The fork must leave this folder as it is.
