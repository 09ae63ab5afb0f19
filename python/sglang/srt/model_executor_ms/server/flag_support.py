"""What this backend makes of each argument of SGLang's server, as data. `flags.py` applies it.

Every field of ServerArgs is in exactly one of SUPPORTED, LIMITED and REFUSED (test_arguments.py walks them), so that a
new SGLang's arguments are looked at before they are believed.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Arguments that do here what SGLang says, whatever their value. Most are served by SGLang's own processes, to which
# it makes no difference what computes the forward pass.
SUPPORTED = _names("""
    model_path trust_remote_code context_length revision model_config_parser json_model_override_args download_dir
    quantization_param_path
    delete_ckpt_after_loading mem_fraction_static max_running_requests max_queued_requests max_total_tokens
    chunked_prefill_size prefill_decode_interval prefill_decode_interval_min_bs max_prefill_tokens prefill_max_requests
    schedule_policy enable_priority_scheduling disable_priority_preemption default_priority_value
    abort_on_priority_when_disabled schedule_low_priority_values_first priority_scheduling_preemption_threshold
    retraction_policy schedule_conservativeness page_size disable_overlap_schedule num_continuous_decode_steps
    scheduler_recv_interval enable_mixed_chunk disable_radix_cache radix_eviction_policy radix_eviction_policy_config
    _radix_eviction_policy_explicitly_set grammar_backend constrained_json_whitespace_pattern
    constrained_json_disable_any_whitespace constrained_json_max_whitespace_cnt disable_outlines_disk_cache
    enable_custom_logit_processor enable_return_hidden_states return_hidden_states_mode enable_fp32_lm_head
    sampling_defaults preferred_sampling_params sampling_mask_max_tokens random_seed watchdog_timeout
    soft_watchdog_timeout sleep_on_idle custom_sigquit_handler numa_node gc_threshold nccl_port dist_timeout
    dist_init_addr gated_launch_port tokenizer_path tokenizer_mode tokenizer_backend tokenizer_worker_num
    detokenizer_worker_num skip_tokenizer_init enable_dynamic_batch_tokenizer dynamic_batch_tokenizer_batch_size
    dynamic_batch_tokenizer_batch_timeout enable_tokenizer_batch_encode disable_tokenizer_batch_decode
    allow_auto_truncate host port fastapi_root_path skip_server_warmup warmups enable_http2
    http2_max_concurrent_streams http2_initial_connection_window_size enable_http_worker_reuseport ssl_keyfile
    ssl_certfile ssl_ca_certs ssl_keyfile_password enable_ssl_refresh api_key admin_api_key served_model_name
    weight_version chat_template trust_request_chat_template hf_chat_template_name completion_template
    file_storage_path enable_response_store enable_cache_report return_input_ids return_output_ids reasoning_parser
    default_chat_template_kwargs strip_thinking_cache enable_strict_thinking tool_call_parser tool_server
    stream_interval batch_notify_size stream_response_default_include_usage incremental_streaming_output log_level
    log_level_http log_requests log_requests_level log_requests_format log_requests_target
    uvicorn_access_log_exclude_prefixes crash_dump_folder show_time_cost enable_metrics
    enable_metrics_for_all_schedulers load_snapshot_publish_interval tokenizer_metrics_custom_labels_header
    tokenizer_metrics_allowed_custom_labels extra_metric_labels bucket_time_to_first_token bucket_inter_token_latency
    bucket_e2e_request_latency prompt_tokens_buckets generation_tokens_buckets gc_warning_threshold_secs
    decode_log_interval enable_request_time_stats_logging kv_events_config load_publish_endpoint enable_trace
    trace_modules otlp_traces_endpoint otlp_service_name export_metrics_to_file export_metrics_to_file_dir stat_loggers
    enable_mfu_metrics enable_forward_pass_metrics forward_pass_metrics_worker_id forward_pass_metrics_ipc_name
    disable_prefill_cuda_graph disable_decode_cuda_graph disable_cuda_graph disable_cuda_graph_padding
    disable_custom_all_reduce disable_flashinfer_autotune is_embedding tp_size dp_size
    enable_deterministic_inference swa_full_tokens_ratio _swa_full_tokens_ratio_explicitly_set
    disable_hybrid_swa_memory swa_prefix_tails nnodes node_rank use_ray
    attn_dp_size enable_dp_attention enable_dp_lm_head
    ep_size ep_num_redundant_experts init_expert_location enable_eplb eplb_algorithm eplb_rebalance_num_iterations
    eplb_rebalance_layers_per_chunk expert_distribution_recorder_buffer_size
    pp_size pp_max_micro_batch_size pp_async_batch_depth cuda_graph_max_bs_decode cuda_graph_bs_decode enable_mis
    enable_lora max_lora_rank lora_target_modules lora_paths max_loaded_loras max_loras_per_batch lora_eviction_policy
    lora_strict_loading lora_drain_wait_threshold
    max_mamba_cache_size mamba_full_memory_ratio mamba_max_states_per_path mamba_track_interval
    speculative_draft_model_path speculative_draft_model_revision speculative_num_steps speculative_num_draft_tokens
    speculative_eagle_topk
    speculative_accept_threshold_single speculative_accept_threshold_acc speculative_attention_mode
    speculative_adaptive speculative_adaptive_config
    speculative_ngram_min_bfs_breadth speculative_ngram_max_bfs_breadth speculative_ngram_match_type
    speculative_ngram_max_trie_depth speculative_ngram_capacity speculative_ngram_external_corpus_path
    speculative_ngram_external_sam_budget speculative_ngram_external_corpus_max_tokens
    enable_multimodal enable_broadcast_mm_inputs_process mm_process_config mm_processor_worker_num mm_io_worker_num
    allowed_media_domains media_url_max_file_size_mb mm_preprocess_cache_size_mb trust_mm_content_hashes
    limit_mm_data_per_request image_processor_backend disable_fast_image_processor
    disaggregation_bootstrap_port num_reserved_decode_tokens enable_memory_saver enable_weights_cpu_backup
    enable_hierarchical_cache hicache_ratio hicache_size hicache_host_memory_fraction hicache_storage_prefetch_policy
    hicache_storage_backend_extra_config hicache_storage_prefetch_retry_poll_interval
    hicache_storage_prefetch_retry_max_attempts
""")

# Arguments of which only these values are supported.
LIMITED = {
    "model_impl": ("auto", "mindspore"),
    "device": (None, "cpu", "npu"),
    # fp8, w8a8_int8 and bitsandbytes are made of a checkpoint that is not quantized; the others say what it is.
    "quantization": (
        *(None, "fp8", "awq", "gptq", "auto-round", "bitsandbytes", "compressed-tensors"),
        *("w8a8_int8", "modelslim", "gguf"),
    ),
    "load_format": ("auto", "safetensors", "pt", "gguf", "mistral", "dummy"),
    "dtype": ("auto", "half", "float16", "bfloat16", "float", "float32"),
    "kv_cache_dtype": ("auto", "fp8_e4m3"),
    "attention_backend": (None, "mindspore"),
    "prefill_attention_backend": (None, "mindspore"),
    "decode_attention_backend": (None, "mindspore"),
    "sampling_backend": (None, "pytorch", "ascend"),
    "cuda_graph_backend_decode": (None, "disabled"),
    "cuda_graph_backend_prefill": (None, "disabled"),
    "load_balance_method": ("auto", "round_robin", "total_requests", "total_tokens"),
    # Tokens are sent to the ranks that hold their experts, or to all ranks; in one way for steps of any size.
    "moe_a2a_backend": ("none", "deepep"),
    "deepep_mode": ("auto", "normal"),
    # SGLang's other ways to choose among an expert's places differ between ranks that see the same tokens.
    "ep_dispatch_algorithm": (None, "dynamic"),
    "expert_distribution_recorder_mode": (None, "stat", "per_pass"),
    "disaggregation_mode": ("null", "prefill", "decode"),
    "disaggregation_transfer_backend": ("mooncake", "mooncake_tcp", "nixl", "ascend"),
    "disaggregation_decode_retraction_backup": (None, "cpu_tensor"),
    "hicache_io_backend": ("kernel", "direct"),  # SGLang's default is kernel; either is this backend's own copy
    "hicache_mem_layout": ("layer_first", "page_first", "page_first_direct"),
    "hicache_write_policy": ("write_through", "write_through_selective"),
    "hicache_host_memory_mode": ("cache",),
    "hicache_storage_backend": (None, "file", "nixl", "mooncake", "dynamic"),
    "boundary_reduction": ("auto", "rs+rsv"),
    "mamba_radix_cache_strategy": ("auto", "no_buffer", "extra_buffer"),
    "mamba_ssm_dtype": (None, "float32"),
    "speculative_algorithm": (None, "NGRAM", "STANDALONE", "EAGLE", "EAGLE3", "NEXTN"),
    "speculative_draft_load_format": (None, "auto", "safetensors", "pt", "dummy"),
    "mm_feature_transport": (None, "cpu"),
    "mm_attention_backend": (None,),
    "mm_enable_dp_encoder": (None, False),
}

# Why only these, where the values do not say it.
REASONS = {
    "kv_cache_dtype": "caches are of the dtype of activations, or of float8 with one scale for the keys of a layer",
    "moe_a2a_backend": "others name libraries of one device for what deepep asks for, which this backend does itself",
    "deepep_mode": "there is one dispatch for steps of any size",
    "disaggregation_decode_retraction_backup": "a pool of the host keeps pages for them from the start",
    "mamba_radix_cache_strategy": "slots are handed out when a request begins, not when it needs them",
    "mamba_ssm_dtype": "recurrent states are float32",
    "mm_feature_transport": "others hand on the memory of a CUDA device",
    "mm_attention_backend": "towers attend by this backend's own operators",
    "mm_enable_dp_encoder": "ranks divide the heads of a tower",
    "ep_dispatch_algorithm": "ranks that see the same tokens must choose the same place of an expert",
    "speculative_algorithm": "others draft with what is not computed yet",
}

_PARALLEL = (
    "of parallelism --tp-size, --ep-size, --pp-size, --dp-size, --attn-dp-size and --nnodes are supported so far"
)
_QUANTIZED = "checkpoints say how they are quantized, and are multiplied by this backend's own operators"
_READS_ITSELF = "checkpoints are read by this backend's own loader, which has no such setting"
_OTHER_KERNELS = "it chooses among torch's kernels, which do not run here"
_OTHER_GRAPHS = (
    "there are no CUDA graphs and no torch.compile here: MindSpore compiles the model, and on an NPU captures decode "
    "graphs for the batch sizes of --cuda-graph-bs-decode, before the server is ready"
)
_LATER = "not supported yet"
_UNTRIED = "not tried with this backend yet"

# (reason, arguments that must keep their default, or be off where the default is to let SGLang choose)
REFUSED = (
    (
        _PARALLEL,
        _names("""
            dcp_size
            attn_cp_size moe_dp_size dwdp_size dcp_comm_backend dcp_replicate_q_proj enable_prefill_cp cp_strategy
            enable_dsa_cache_layer_split enable_cp_decode_attn_tp enable_kv_cache_sharding
            enable_dp_attention_local_control_broadcast enable_tp_lm_head_all_to_all
            enable_attn_tp_input_scattered enable_shared_experts_attn_tp shared_experts_tp_size
            enable_dense_mlp_attn_tp enable_layernorm_sp disable_attn_tp_gather enable_p2p_check
            moe_dense_tp_size ep_join_rank_offset elastic_ep_initial_size max_ep_size enable_cp_tp_group_sharing
            enable_megamoe_for_layernorm_sp enable_dynamic_chunking enable_nccl_nvls enable_symm_mem
            enable_mscclpp enable_torch_symm_mem enable_scattered_sconv pre_warm_nccl enable_quant_communications
            enable_flashinfer_allreduce_fusion enforce_disable_flashinfer_allreduce_fusion
            flashinfer_allreduce_fusion_backend enable_aiter_allreduce_fusion disable_aiter_allreduce_fusion_in_prefill
            disable_aiter_allreduce_fusion_in_decode enable_prefill_delayer prefill_delayer_max_delay_passes
            prefill_delayer_token_usage_low_watermark prefill_delayer_forward_passes_buckets
            prefill_delayer_wait_seconds_buckets prefill_delayer_queue_min_ratio prefill_delayer_max_delay_ms
        """),
    ),
    (
        _QUANTIZED,
        _names("""
            modelopt_quant modelopt_checkpoint_restore_path
            modelopt_checkpoint_save_path modelopt_export_path quantize_and_serve rl_quant_profile
            fp8_gemm_runner_backend fp4_gemm_runner_backend prefill_kv_cache_dequant_dtype
        """),
    ),
    (
        "adapters are computed by this backend's own operators, and written into their slots between steps",
        _names("""
            enable_lora_overlap_loading lora_backend max_lora_chunk_size experts_shared_outer_loras
            lora_use_virtual_experts
        """),
    ),
    (
        "this kind of speculative decoding is not supported yet",
        _names("""
            uno_lora_path
            speculative_dflash_block_size speculative_dspark_block_size speculative_dspark_sps_table_path
            speculative_dspark_confidence_sts_path speculative_dspark_align_verify_tokens_to_graph_tier
            speculative_use_rejection_sampling
            speculative_token_map speculative_draft_attention_backend
            speculative_dsa_topk_backend speculative_draft_kv_cache_dtype speculative_draft_window_size
            speculative_moe_runner_backend speculative_moe_a2a_backend speculative_enable_w4a4_mxfp4_megamoe
            speculative_draft_model_quantization _speculative_draft_quantization_explicitly_set
            enable_multi_layer_eagle spec_trace_dir
            speculative_domino_candidate_pool_size speculative_boundary_reduction speculative_use_block_verification
            speculative_draft_sink_size decoupled_spec_bind_endpoint decoupled_spec_connect_endpoints
            decoupled_spec_rank decoupled_spec_role enable_return_aux_hidden_states aux_hidden_state_capture
            return_aux_hidden_state_layer_ids enable_draft_weights_cpu_backup decrypted_draft_config_file
            min_free_slots_delay
        """),
    ),
    (
        "towers are computed by this backend's own operators, each rank's for its own requests",
        _names("""
            enable_prefix_mm_cache enable_mm_global_cache mm_global_cache_backend enable_precise_embedding_interpolation
        """),
    ),
    ("models that hear are not supported yet", _names("asr_max_buffer_seconds asr_max_concurrent_sessions")),
    (
        "tokens come to experts, and are multiplied, by this backend's own operators",
        _names("""
            enable_fused_moe_sum_all_reduce enable_w4a4_mxfp4_megamoe deepep_v2_mode moe_runner_backend
            flashinfer_mxfp4_moe_precision fuseep_mode deepep_dispatcher_output_dtype
            eplb_min_rebalancing_utilization_threshold expert_balancedness_report_mode
            deepep_config elastic_ep_backend enable_elastic_expert_backup mooncake_ib_device enable_waterfill
            ep_join_mode elastic_ep_scale_timeout disable_flashinfer_cutlass_moe_fp4_allgather
            disable_shared_experts_fusion enforce_shared_experts_fusion kt_weight_path kt_method kt_cpuinfer
            kt_threadpool_count kt_num_gpu_experts kt_max_deferred_experts_per_token flashinfer_a2a_dispatch_type
            enable_paged_experts paged_experts_num_resident enable_return_routed_experts
        """),
    ),
    (
        "it is for models of DeepSeek V4's kind, which are not supported yet",
        _names("enable_encoder_swa_bounded_replay enable_decoder_swa_bounded_replay"),
    ),
    (
        "models with sparse attention are not supported yet",
        _names("""
            enable_return_indexer_topk c128_page_size qsa_indexer_dtype dsa_prefill_backend dsv4_prefill_backend
            dsa_decode_backend dsa_paged_mqa_logits_backend dsa_topk_backend enable_deepseek_v4_fp4_indexer
            dsv4_attn_backend dsa_triton_union enable_dsa_fused_indexer enable_hisparse hisparse_config
        """),
    ),
    (
        "it is about SGLang's own operators for MLA, which are not used",
        _names("flashinfer_mla_disable_ragged disable_chunked_prefix_cache enable_linker_mla_dedup"),
    ),
    (
        "it is about kernels or caches of states that this backend does not have",
        _names("""
            mamba_backend enable_mamba_cache_stochastic_rounding mamba_cache_philox_rounds uses_mamba_radix_cache
            enable_int8_mamba_checkpoint int8_mamba_ckpt_size
            linear_attn_backend linear_attn_decode_backend linear_attn_prefill_backend linear_attn_verify_backend
            enable_linear_replayssm linear_replayssm_cache_len enable_linear_replayssm_spec
        """),
    ),
    (
        "of prefill and decode on separate servers, only --disaggregation-mode is supported so far",
        _names("""
            disaggregation_ib_device
            disaggregation_decode_enable_radix_cache disaggregation_decode_enable_offload_kvcache
            disaggregation_decode_extra_slots
            disaggregation_decode_polling_interval optimistic_prefill_attempts encoder_only language_only
            language_model_only encoder_transfer_backend encoder_urls encoder_bootstrap_port encoder_register_urls
            enable_adaptive_dispatch_to_encoder enable_pdmux pdmux_config_path sm_group_num
            disaggregation_enable_kv_checksum enable_pd_role_switch disaggregation_decode_host_receive_threshold
            disaggregation_decode_allocation_policy
        """),
    ),
    (
        "of caches outside the device's key/value pool, HiCache is supported so far (--enable-hierarchical-cache)",
        _names("""
            enable_page_major_kv_layout enable_unified_memory enable_session_radix_cache radix_cache_backend
            enable_unified_cache_external_linker unified_cache_external_linker_backend
            unified_cache_external_linker_config enable_lmcache lmcache_config_file enable_flexkv flexkv_config_file
            prefill_only_disable_kv_cache
        """),
    ),
    (
        "weights stay on the device: offloading is not supported yet",
        _names("""
            cpu_offload_gb offload_group_size offload_num_in_group offload_prefetch_step offload_mode
            ple_offload_embedding ple_offload_backend ple_offload_dir
        """),
    ),
    (
        _READS_ITSELF,
        _names("""
            model_loader_extra_config startup_weight_load_mode custom_weight_loader weight_loader_disable_mmap
            weight_loader_prefetch_checkpoints weight_loader_prefetch_num_threads weight_loader_drop_cache_after_load
            remote_instance_weight_loader_seed_instance_ip remote_instance_weight_loader_seed_instance_service_port
            remote_instance_weight_loader_send_weights_group_ports remote_instance_weight_loader_backend
            remote_instance_weight_loader_start_seed_via_transfer_engine engine_info_bootstrap_port modelexpress_config
            model_checksum decrypted_config_file checkpoint_engine_wait_weights_before_ready weight_cache_mode
            weight_cache_socket weight_cache_timeout
        """),
    ),
    (
        _OTHER_KERNELS,
        _names("""
            enable_tf32_matmul enable_lean_attention bf16_gemm_backend flashinfer_autotune_skip_ops
            triton_attention_reduce_in_fp32 triton_attention_num_kv_splits triton_attention_split_tile_size
            enable_fused_qk_norm_rope enable_amd_monokernel enable_nvidia_megakernel mlx_enable_sampling
            enable_two_batch_overlap enable_single_batch_overlap tbo_token_distribution_threshold
        """),
    ),
    (
        _OTHER_GRAPHS,
        _names("""
            cuda_graph_config cuda_graph_max_bs_prefill cuda_graph_bs_prefill cuda_graph_prefill_max_context
            enable_profile_cuda_graph enable_cudagraph_gc debug_cuda_graph enable_torch_compile
            enable_torch_compile_debug_mode torch_compile_max_bs cuda_graph_max_seq_len_prefill
        """),
    ),
    (
        "it looks into torch modules, and the model's are MindSpore's",
        _names("""
            kv_canary kv_canary_real_data kv_canary_sweep_interval debug_tensor_dump_output_folder
            debug_tensor_dump_layers debug_tensor_dump_input_file forward_hooks msprobe_dump_config
            enable_layerwise_nvtx_marker
        """),
    ),
    (_LATER, _names("dllm_algorithm dllm_algorithm_config dllm_fdfo")),
    ("use ASCEND_RT_VISIBLE_DEVICES to choose an NPU", _names("base_gpu_id gpu_id_step")),
    (
        _UNTRIED,
        _names("""
            rl_on_policy_target enable_watermark watermark_config watermark_key
            watermark_key_b watermark_context_window watermark_mixing_probability watermark_max_probability
            watermark_default_enabled watermark_enforce_all enable_streaming_session smg_grpc_mode grpc_mode grpc_port
            grpc_worker_threads grpc_response_timeout_secs sidecar sidecar_args smg_http_sidecar_port
        """),
    ),
)
