"""Names of `transformers.Trainer`, and what to write for them here.

Used by `unknown_names`, and by the command for its options. Each text is the end of a message:
"`Distiller` has no argument `model`, got Linear; write `model_init=`, ...". A name that means the
same in both libraries, such as ``max_steps``, is spelled alike and is not here.
"""

from __future__ import annotations

from collections.abc import Mapping

_LOSS = "write `inner_loss=` and `outer_loss=`, functions of logits and labels"
_PREPARED = "images are prepared by the settings `image_size` and `normalization`"
_OPTIMIZER = (
    "the outer optimizer is Adam with `learning_rate`, `adam_beta1` and `adam_beta2`; override "
    "`Distiller.create_optimizer_and_scheduler` for another"
)
_METRICS = "evaluations measure accuracy; a callback with `on_evaluate` can add to them"

# Arguments of `Trainer`; `args` is answered by its value.
ARGUMENTS: Mapping[str, str] = {
    "compute_loss_func": _LOSS,
    "compute_metrics": _METRICS,
    "data_collator": "images and labels are read from the columns that the settings "
    "`image_column` and `label_column` name",
    "dataset": "write `train_dataset=`, or the setting `dataset` for a name or a folder",
    "feature_extractor": _PREPARED,
    "image_processor": _PREPARED,
    "loss": _LOSS,
    "loss_fn": _LOSS,
    "model": "write `model_init=`, a network, a function that makes one, or a name",
    "network": "write `model_init=`, a network, a function that makes one, or a name",
    "optimizer_cls_and_kwargs": _OPTIMIZER,
    "optimizers": _OPTIMIZER,
    "preprocess_logits_for_metrics": _METRICS,
    "processing_class": _PREPARED,
    "tokenizer": _PREPARED,
}

_BATCH = "write `real_batch_size`, the number of real images per network and outer step"
_STEPS = "write `max_steps`, the number of outer steps"
_INNER = "the inner optimizer is set by `inner_optimizer` and `inner_optimizer_args`; "
_BF16 = 'write `mixed_precision="bf16"`'
_COMPILE = 'write `compile="inductor"`'
_RECOMPUTE = 'write `storage="recompute"`'
_INTERVAL = "write `{0}_steps`, the number of outer steps between two; 0 for none"
_COLUMNS = "write `image_column` and `label_column`, the names of the columns"
_CALLS = "`Distiller` has `train()`, `evaluate()` and `compare()`, and the command does all"
_BEST = "`load_best_model_at_end` goes by accuracy"
_LAUNCH = "processes are set up by `accelerate launch`, or in Python by an Accelerator"
_CPU = (
    "set ACCELERATE_USE_CPU=true in the environment, or, in Python, give `Distiller` an Accelerator"
)
_LOADER = "there is no data loader to set up"
_REPOSITORY = "write `hub_dataset_id`, the repository of the distilled set"
_MODEL = "write `model`, a name such as timm/resnet18, or, in Python, give `Distiller` a network"

# Fields of `TrainingArguments`, of now and before, and words of the examples of transformers.
SETTINGS: Mapping[str, str] = {
    "accelerator_config": _LAUNCH,
    "activation_checkpointing": _RECOMPUTE,
    "activation_checkpointing_kwargs": _RECOMPUTE,
    "adam_epsilon": _INNER + _OPTIMIZER,
    "auto_find_batch_size": '`storage="auto"` goes by the free memory',
    "batch_eval_metrics": _METRICS,
    "bf16": _BF16,
    "bf16_full_eval": "networks are always tested in full precision",
    "data_seed": "write `seed`, of which every random number of the run is a function",
    "dataloader_drop_last": _LOADER,
    "dataloader_in_order": _LOADER,
    "dataloader_multiprocessing_context": _LOADER,
    "dataloader_num_workers": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_pin_memory": _LOADER,
    "dataloader_prefetch_factor": _LOADER,
    "dataset_name": "write `dataset`, a folder or the id of a data set on the Hub",
    "ddp_backend": _LAUNCH,
    "ddp_broadcast_buffers": _LAUNCH,
    "ddp_bucket_cap_mb": _LAUNCH,
    "ddp_find_unused_parameters": _LAUNCH,
    "ddp_static_graph": _LAUNCH,
    "ddp_timeout": _LAUNCH,
    "deepspeed": _LAUNCH,
    "do_eval": _CALLS,
    "do_predict": _CALLS,
    "do_train": _CALLS,
    "enable_jit_checkpoint": "a run that Ctrl-C or SIGTERM ends leaves a checkpoint",
    "epochs": _STEPS,
    "eval_accumulation_steps": "write `per_device_eval_batch_size`, if memory runs out",
    "eval_dataset": "give it to `Distiller`, or write `eval_split`, the name of a split",
    "eval_delay": _INTERVAL.format("eval"),
    "eval_on_start": _INTERVAL.format("eval"),
    "eval_strategy": _INTERVAL.format("eval"),
    "evaluation_strategy": _INTERVAL.format("eval"),
    "fp16": f"{_BF16}; float16 is not offered",
    "fp16_full_eval": "networks are always tested in full precision",
    "fsdp": _LAUNCH,
    "fsdp_config": _LAUNCH,
    "full_determinism": "write `seed`, of which every random number of the run is a function",
    "gradient_accumulation_steps": "write `networks_per_step`, whose gradients are averaged",
    "gradient_checkpointing": _RECOMPUTE,
    "gradient_checkpointing_kwargs": _RECOMPUTE,
    "greater_is_better": _BEST,
    "hub_always_push": "`push_to_hub` publishes at the end of the run",
    "hub_model_id": _REPOSITORY,
    "hub_strategy": "`push_to_hub` publishes at the end of the run",
    "image_column_name": _COLUMNS,
    "include_for_metrics": _METRICS,
    "ipc": "write `images_per_class`",
    "label_column_name": _COLUMNS,
    "label_names": _COLUMNS,
    "label_smoothing_factor": "write `soft_labels=True` to learn labels, or, in Python, give "
    "`Distiller` an `inner_loss`",
    "length_column_name": _COLUMNS,
    "local_rank": _LAUNCH,
    "logging_dir": "the log is written to `output_dir`",
    "logging_first_step": "write `logging_steps=1`",
    "logging_strategy": "write `logging_steps`, the number of outer steps between two lines",
    "lr": "write `learning_rate`, of the images; that of inner training is `inner_lr`",
    "lr_scheduler_kwargs": "schedules are set by `lr_scheduler_type` and `warmup_steps`",
    "metric_for_best_model": _BEST,
    "model_init": "give it to `Distiller`, or write `model`, its name",
    "model_name": _MODEL,
    "model_name_or_path": _MODEL,
    "momentum": _INNER + _OPTIMIZER,
    "no_cuda": _CPU,
    "num_epochs": _STEPS,
    "num_train_epochs": _STEPS,
    "optim": _INNER + _OPTIMIZER,
    "optim_args": _INNER + _OPTIMIZER,
    "optimizer": _INNER + _OPTIMIZER,
    "parallelism_config": _LAUNCH,
    "per_device_train_batch_size": _BATCH,
    "per_gpu_train_batch_size": _BATCH,
    "prediction_loss_only": _METRICS,
    "project": "write `run_name`, the name of the run in the trackers",
    "push_to_hub_model_id": _REPOSITORY,
    "push_to_hub_token": "write `hub_token`",
    "remove_unused_columns": _COLUMNS,
    "restore_callback_states_from_checkpoint": "callbacks have no state in a checkpoint",
    "save_only_model": "a checkpoint always holds the whole run",
    "save_strategy": _INTERVAL.format("save"),
    "tf32": "call `torch.set_float32_matmul_precision('high')` before the run",
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "train_batch_size": _BATCH,
    "train_dataset": "give it to `Distiller`, or write `dataset`, a folder or the id of a data set",
    "train_sampling_strategy": "real images are drawn by `seed`, as many of each class",
    "use_cpu": _CPU,
    "warmup_ratio": "write `warmup_steps`, the number of outer steps",
    "weight_decay": _INNER + _OPTIMIZER,
}

_EVALUATED = "write `Distiller(eval_dataset=...)`; every evaluation is on that"
_KEYS = "the results are named accuracy_mean, accuracy_std and networks"

# Arguments of the methods of both.
METHODS: Mapping[str, Mapping[str, str]] = {
    "evaluate": {
        "eval_dataset": _EVALUATED,
        "ignore_keys": _KEYS,
        "metric_key_prefix": _KEYS,
    },
    "push_to_hub": {
        "blocking": "the call returns when the set is published",
        "commit_message": "`dd-plugin push --commit_message` takes one",
        "private": "write `DistillerConfig(hub_private_repo=True)`",
        "revision": "write `DistillerConfig(hub_revision=...)`",
        "token": "write `DistillerConfig(hub_token=...)`, or log in with `hf auth login`",
    },
    "save_model": {},
    "train": {
        "ignore_keys_for_eval": _KEYS,
        "model_path": "write `resume_from_checkpoint=`",
        "trial": "compare runs with `dd-plugin compare RUN RUN`",
    },
}

_CALLBACKS = "give `callbacks=[...]` to `Distiller`, or change the list `callbacks`"
_TRAINED = (
    "each step trains networks of its own; `DistilledDataset.from_pretrained(folder).fit()` trains "
    "one on what `save_model()` wrote to the folder"
)
_SCHEDULER = "override `create_optimizer_and_scheduler`"
_REAL = "`real_batch(step, index)` returns the real images of an outer step"

# Attributes of `Trainer`.
ATTRIBUTES: Mapping[str, str] = {
    "add_callback": _CALLBACKS,
    "args": "its settings are `config`",
    "callback_handler": _CALLBACKS,
    "compute_loss": "the losses are `compute_inner_loss` and `compute_outer_loss`",
    "create_model_card": "`save_model()` writes the card",
    "create_optimizer": _SCHEDULER,
    "create_scheduler": _SCHEDULER,
    "eval_dataset": "the images to evaluate on are `eval_data`",
    "evaluation_loop": "`evaluate()` trains fresh networks and tests them on `eval_data`",
    "fit": "write `train()`",
    "get_eval_dataloader": "the images to evaluate on are `eval_data`",
    "get_test_dataloader": "the images to evaluate on are `eval_data`",
    "get_train_dataloader": _REAL,
    "hyperparameter_search": "compare runs with `dd-plugin compare RUN RUN`",
    "images": "the distilled images are `synthetic.images()`",
    "is_local_process_zero": "write `accelerator.is_local_main_process`",
    "is_world_process_zero": "write `accelerator.is_main_process`",
    "log_metrics": "`evaluate()` logs its results; `print(compare())` is the table",
    "model": _TRAINED,
    "model_wrapped": _TRAINED,
    "pop_callback": _CALLBACKS,
    "predict": "to classify images, write `save_model()`; then, with `distilled = "
    "DistilledDataset.from_pretrained(folder)`, `distilled.predict(distilled.fit(), images)`",
    "processing_class": "`transform` turns images into the input of networks",
    "remove_callback": _CALLBACKS,
    "resume": "write `train(resume_from_checkpoint=True)`",
    "save": "write `save_model()`",
    "save_metrics": "`save_model()` writes the results with the set",
    "save_pretrained": "write `save_model()`",
    "save_state": "checkpoints are written every `save_steps` outer steps, and on Ctrl-C",
    "test": "write `evaluate()`, or `compare()` for the table",
    "tokenizer": "`transform` turns images into the input of networks",
    "train_dataset": "the images that are distilled are `train_data`",
}
