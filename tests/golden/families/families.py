"""The tiny models of make.py: for each family a config.json as the hub has it, in the style of years past and in that
of transformers 5, which say the same.

D, F and H*A are multiples of 64 and A is a multiple of 8, as edge-run needs them. Windows and the contexts of the first
training are small, so that the longest prompt is beyond them.
"""

# The tokens of the tokenizer that the tests give to every tiny model.
VOCAB = 263
CONTEXT = 128
# Divisors of 12 frequencies, without a pattern.
SHORT_FACTORS = [1.0, 1.02, 1.03, 1.05, 1.09, 1.14, 1.22, 1.31, 1.42, 1.58, 1.79, 2.05]
LONG_FACTORS = [1.0, 1.11, 1.35, 1.72, 2.3, 3.1, 4.4, 6.2, 8.9, 12.5, 17.0, 23.5]


def base(architecture, model_type, d, f, layers, heads, kv_heads, **more):
    """The keys that all have."""
    return {
        "architectures": [architecture], "model_type": model_type, "hidden_size": d, "intermediate_size": f,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, **more,
    }


def styles(common, old, new):
    """The two styles of what is otherwise one config.json."""
    return {
        "old": {**common, **old, "torch_dtype": "float32", "transformers_version": "4.45.0"},
        "new": {**common, **new, "dtype": "float32", "transformers_version": "5.0.0"},
    }


def llama3():
    common = base("LlamaForCausalLM", "llama", 128, 192, 3, 4, 2, head_dim=48, attention_bias=False, mlp_bias=False,
                  tie_word_embeddings=False)
    scaling = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 32,
               "rope_type": "llama3"}
    return styles(common, {"rope_theta": 500000.0, "rope_scaling": scaling},
                  {"rope_parameters": {**scaling, "rope_theta": 500000.0}})


def llama_linear():
    common = base("LlamaForCausalLM", "llama", 64, 128, 3, 4, 1, tie_word_embeddings=True)
    return styles(common, {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
                  {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}})


def mistral():
    common = base("MistralForCausalLM", "mistral", 128, 192, 3, 8, 2, sliding_window=8, tie_word_embeddings=False)
    return styles(common, {"rope_theta": 10000.0},
                  {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}})


def mistral_nemo():
    common = base("MistralForCausalLM", "mistral", 192, 128, 3, 4, 2, head_dim=32, sliding_window=None,
                  tie_word_embeddings=False)
    return styles(common, {"rope_theta": 1000000.0},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}})


def ministral3_rope():
    return {"type": "yarn", "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0,
            "beta_slow": 1.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.4}


def ministral3():
    """The text part of a folder with eyes, which edge-run leaves out. There is no old style of it."""
    text = base("Ministral3ForCausalLM", "ministral3", 64, 128, 4, 4, 2, head_dim=32, sliding_window=None,
                tie_word_embeddings=False, rope_parameters=ministral3_rope())
    del text["architectures"]
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
              "num_attention_heads": 2, "head_dim": 8, "image_size": 32, "patch_size": 16, "hidden_act": "silu",
              "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    return {"new": {
        "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "dtype": "float32",
        "image_token_index": 10, "projector_hidden_act": "gelu", "spatial_merge_size": 2, "multimodal_projector_bias":
        False, "vision_feature_layer": -1, "tie_word_embeddings": False, "text_config": text, "vision_config": vision,
        "transformers_version": "5.0.0",
    }}


def ministral3_text():
    rope = {**ministral3_rope(), "factor": 8.0, "mscale": 1.0, "mscale_all_dim": 0.0}
    config = base("Ministral3ForCausalLM", "ministral3", 64, 64, 3, 4, 4, head_dim=16, sliding_window=None,
                  tie_word_embeddings=True, rope_parameters=rope)
    return {"new": {**config, "dtype": "float32", "transformers_version": "5.0.0"}}


def smollm3():
    common = base("SmolLM3ForCausalLM", "smollm3", 128, 192, 5, 4, 2, attention_bias=False, mlp_bias=False,
                  use_sliding_window=False, sliding_window=None)
    return styles(common, {"rope_theta": 5000000.0, "rope_scaling": None, "no_rope_layer_interval": 4,
                           "no_rope_layers": [1, 1, 1, 0, 1]},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0}, "tie_word_embeddings": True})


def qwen2():
    """The window is switched off, so its size counts for nothing."""
    common = base("Qwen2ForCausalLM", "qwen2", 64, 192, 3, 4, 2, sliding_window=8, max_window_layers=1,
                  use_sliding_window=False, tie_word_embeddings=True)
    return styles(common, {"rope_theta": 1000000.0},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "sliding_window": None,
                   "layer_types": ["full_attention"] * 3})


def qwen2_window():
    """The window is switched on, for the layers from `max_window_layers` on."""
    common = base("Qwen2ForCausalLM", "qwen2", 64, 64, 4, 4, 4, sliding_window=8, max_window_layers=2,
                  use_sliding_window=True, tie_word_embeddings=True)
    return styles(common, {"rope_theta": 10000.0},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
                   "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2})


def qwen2_yarn():
    common = base("Qwen2ForCausalLM", "qwen2", 128, 128, 3, 4, 2, use_sliding_window=False, tie_word_embeddings=False)
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32}
    return styles(common, {"rope_theta": 10000.0, "rope_scaling": {"type": "yarn", **scaling}},
                  {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **scaling}})


def qwen3():
    common = base("Qwen3ForCausalLM", "qwen3", 64, 192, 3, 4, 2, head_dim=32, attention_bias=False, rms_norm_eps=1e-6,
                  tie_word_embeddings=True, use_sliding_window=False, sliding_window=None, max_window_layers=3)
    return styles(common, {"rope_theta": 1000000.0, "rope_scaling": None},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
                   "layer_types": ["full_attention"] * 3})


def qwen3_yarn():
    common = base("Qwen3ForCausalLM", "qwen3", 128, 64, 3, 8, 2, head_dim=24, attention_bias=False, rms_norm_eps=1e-6,
                  tie_word_embeddings=False, use_sliding_window=False)
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    return styles(common, {"rope_theta": 100000.0, "rope_scaling": scaling},
                  {"rope_parameters": {**scaling, "rope_theta": 100000.0}})


def phi3_longrope():
    """As Phi-4-mini: partly rotated, tied, and factors by the length of the context."""
    common = base("Phi3ForCausalLM", "phi3", 128, 192, 3, 4, 2, sliding_window=262144, tie_word_embeddings=True,
                  original_max_position_embeddings=32, attention_bias=False)
    factors = {"short_factor": SHORT_FACTORS, "long_factor": LONG_FACTORS}
    return styles(common, {"rope_theta": 10000.0, "rope_scaling": {"type": "longrope", **factors},
                           "partial_rotary_factor": 0.75},
                  {"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
                                       "original_max_position_embeddings": 32, **factors}})


def phi3_window():
    """As Phi-3-mini-4k: fully rotated, a window, untied."""
    common = base("Phi3ForCausalLM", "phi3", 192, 128, 3, 4, 4, sliding_window=12, tie_word_embeddings=False,
                  original_max_position_embeddings=128, attention_bias=False)
    return styles(common, {"rope_theta": 10000.0, "rope_scaling": None},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}})


def granite_multipliers():
    return {"embedding_multiplier": 3.0, "attention_multiplier": 0.1, "residual_multiplier": 0.6, "logits_scaling": 0.4}


def granite():
    common = base("GraniteForCausalLM", "granite", 192, 128, 3, 4, 2, tie_word_embeddings=True, attention_bias=False,
                  mlp_bias=False, **granite_multipliers())
    return styles(common, {"rope_theta": 10000000.0, "rope_scaling": None},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0}})


def granite_untied():
    common = base("GraniteForCausalLM", "granite", 64, 128, 3, 4, 1, tie_word_embeddings=False, attention_bias=False,
                  mlp_bias=False, **granite_multipliers())
    return styles(common, {"rope_theta": 10000.0},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}})


def granite_dense_hybrid():
    """As Granite 4.0 micro: the architecture of the hybrids, with no layer of them."""
    common = base("GraniteMoeHybridForCausalLM", "granitemoehybrid", 128, 192, 3, 4, 2, tie_word_embeddings=True,
                  attention_bias=False, layer_types=["attention"] * 3, position_embedding_type="rope",
                  shared_intermediate_size=192, num_local_experts=0, num_experts_per_tok=0, mamba_n_heads=16,
                  mamba_d_head=16, mamba_d_state=16, mamba_expand=2, mamba_n_groups=1, mamba_d_conv=4,
                  mamba_chunk_size=256, mamba_conv_bias=True, mamba_proj_bias=False, **granite_multipliers())
    return styles(common, {"rope_theta": 10000000.0, "rope_scaling": None},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0}})


def gemma2():
    """As Gemma 2 of 2B and 9B, whose scores are divided by the root of A."""
    return gemma2_of(4, 32, 32)


def gemma2_scaled():
    """As Gemma 2 of 27B, whose scores are divided by the root of D/H."""
    return gemma2_of(8, 24, 8)


def gemma2_of(heads, head_dim, scalar):
    common = base("Gemma2ForCausalLM", "gemma2", 64, 128, 4, heads, 2, head_dim=head_dim,
                  hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh",
                  query_pre_attn_scalar=scalar, sliding_window=8, attn_logit_softcapping=2.0,
                  final_logit_softcapping=5.0, attention_bias=False, rms_norm_eps=1e-6)
    return styles(common, {"rope_theta": 10000.0, "cache_implementation": "hybrid"},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "tie_word_embeddings": True,
                   "layer_types": ["sliding_attention", "full_attention"] * 2})


def gemma3_layers(count):
    return ["full_attention" if (at + 1) % 6 == 0 else "sliding_attention" for at in range(count)]


def gemma3_text():
    """As Gemma 3 of 270M and 1B."""
    common = base("Gemma3ForCausalLM", "gemma3_text", 64, 128, 7, 8, 1, head_dim=24, query_pre_attn_scalar=24,
                  sliding_window=8, hidden_activation="gelu_pytorch_tanh", attn_logit_softcapping=None,
                  final_logit_softcapping=None, attention_bias=False, rms_norm_eps=1e-6)
    del common["hidden_act"]
    return styles(common, {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": None,
                           "sliding_window_pattern": 6},
                  {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                                       "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
                   "layer_types": gemma3_layers(7), "tie_word_embeddings": True})


def gemma3_multimodal():
    """As Gemma 3 from 4B up: the text part of a folder with eyes, which edge-run leaves out."""
    text = base("", "gemma3_text", 128, 64, 6, 4, 2, head_dim=48, query_pre_attn_scalar=32, sliding_window=12,
                hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6)
    del text["architectures"], text["hidden_act"]
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    common = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 4,
              "boi_token_index": 4, "eoi_token_index": 5, "image_token_index": 6, "vision_config": vision}
    linear = {"factor": 8.0, "rope_type": "linear"}
    return styles(common, {"text_config": {**text, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
                                           "rope_scaling": linear, "sliding_window_pattern": 6}},
                  {"text_config": {**text, "layer_types": gemma3_layers(6), "rope_parameters": {
                      "full_attention": {**linear, "rope_theta": 1000000.0},
                      "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}})


def olmo2():
    common = base("Olmo2ForCausalLM", "olmo2", 128, 192, 3, 4, 2, tie_word_embeddings=False, attention_bias=False,
                  rms_norm_eps=1e-6)
    return styles(common, {"rope_theta": 500000.0, "rope_scaling": None},
                  {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}})


FAMILIES = [
    llama3, llama_linear, mistral, mistral_nemo, ministral3, ministral3_text, smollm3, qwen2, qwen2_window,
    qwen2_yarn, qwen3, qwen3_yarn, phi3_longrope, phi3_window, granite, granite_untied, granite_dense_hybrid,
    gemma2, gemma2_scaled, gemma3_text, gemma3_multimodal, olmo2,
]

# Contexts of the prompts that fit into them, where not all contexts are alike; the others have CONTEXT.
SHORT_CONTEXT = {"phi3_longrope": 32}

# GGUF files that do not say all of their model: prompts of more tokens than this come out otherwise, as (tokens, why).
NO_SCALE = "GGUF files of Gemma have no score scale, and llama.cpp knows the one of 27B by its number of layers"
GGUF_LONGEST = {
    "mistral": (8, "GGUF files of the architecture llama have no window"),
    "qwen2_window": (8, "GGUF files of the architecture qwen2 have no window"),
    "gemma2_scaled": (0, NO_SCALE),
    "gemma3_multimodal": (0, NO_SCALE),
}

# What is refused by its name: (architecture, model_type, architecture in GGUF files, other keys).
REFUSED = [
    ("Qwen3_5ForConditionalGeneration", "qwen3_5", "qwen35",
     {"text_config": {"model_type": "qwen3_5_text", "layer_types": ["linear_attention"] * 3 + ["full_attention"]}}),
    ("Qwen3NextForCausalLM", "qwen3_next", "qwen3next", {"num_experts": 8}),
    ("Gemma4ForConditionalGeneration", "gemma4", "gemma4", {"text_config": {"model_type": "gemma4_text"}}),
    ("Gemma3nForConditionalGeneration", "gemma3n", "gemma3n", {"text_config": {"model_type": "gemma3n_text"}}),
    ("Qwen3MoeForCausalLM", "qwen3_moe", "qwen3moe", {"num_experts": 8}),
    ("MixtralForCausalLM", "mixtral", "llama", {"num_local_experts": 8}),
    ("GraniteMoeForCausalLM", "granitemoe", "granitemoe", {"num_local_experts": 8}),
    ("GraniteMoeHybridForCausalLM", "granitemoehybrid", "granitehybrid",
     {"num_local_experts": 0, "shared_intermediate_size": 128, "position_embedding_type": "nope",
      "layer_types": ["mamba", "mamba", "attention", "mamba"]}),
    ("DeepseekV3ForCausalLM", "deepseek_v3", "deepseek2", {"n_routed_experts": 8}),
    ("GptOssForCausalLM", "gpt_oss", "gpt-oss", {"num_local_experts": 8}),
    ("Lfm2ForCausalLM", "lfm2", "lfm2", {"layer_types": ["conv", "full_attention"]}),
]
