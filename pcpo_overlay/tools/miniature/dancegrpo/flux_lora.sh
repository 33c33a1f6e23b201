# Launches DanceGRPO's LoRA fine-tuning of FLUX on the miniature, as upstream's own scripts/finetune launch it on FLUX.
# `python -m pcpo_overlay ab dancegrpo --trainer flux_lora` takes the command from here.
# Ten times upstream's learning rate, as in flux.sh: at upstream's the factors of so narrow a network hardly move.
torchrun --standalone --nproc_per_node=1 \
    fastvideo/train_grpo_flux_lora.py \
    --pretrained_model_name_or_path data/flux \
    --vae_model_path data/flux \
    --cache_dir cache \
    --data_json_path data/rl_embeddings/videos2caption.json \
    --train_batch_size 10 \
    --num_latent_t 1 \
    --sp_size 1 \
    --train_sp_batch_size 10 \
    --dataloader_num_workers 0 \
    --gradient_accumulation_steps 30 \
    --max_train_steps 20 \
    --learning_rate 3e-3 \
    --mixed_precision bf16 \
    --checkpointing_steps 1000000 \
    --allow_tf32 \
    --cfg 0.0 \
    --h 64 \
    --w 64 \
    --t 1 \
    --sampling_steps 12 \
    --eta 0.3 \
    --lr_warmup_steps 0 \
    --sampler_seed 1223627 \
    --max_grad_norm 1.0 \
    --weight_decay 0.0001 \
    --use_hpsv2 \
    --num_generations 6 \
    --shift 3 \
    --use_group \
    --ignore_last \
    --timestep_fraction 0.6 \
    --clip_range 1e-4 \
    --adv_clip_max 5.0 \
    --init_same_noise \
    --lora_alpha 32 \
    --lora_rank 16
