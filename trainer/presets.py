"""Named sizes to start from, with what of the recipe goes with them; `trainer.config.Config` has the meanings."""

from typing import Any

# Bodies of about the size that the name says (embeddings and heads come on top: 640 raw rows, and twice the view's).
PRESETS: dict[str, dict[str, Any]] = {
    "demo": {"width": 192, "heads": 3, "kv_heads": 3, "mlp": 512, "steps": 2000, "batch_rows": 8, "optimizer": "muon",
             "anneal": 0.6, "schedule": "wsd", "decay": 0.4, "lr_floor": 0.02, "eval_every": 700, "eval_bytes": 65536},
    "5m": {"width": 256, "layers": 6, "heads": 4, "kv_heads": 2, "mlp": 768, "steps": 5000, "context": 1024,
           "batch_rows": 16, "lr": 3e-3, "warmup_steps": 200, "checkpoint_every": 500, "eval_every": 500},
    "25m": {"width": 512, "layers": 8, "heads": 8, "kv_heads": 4, "mlp": 1536, "steps": 10000, "context": 2048,
            "batch_rows": 32, "lr": 2e-3, "warmup_steps": 300, "checkpoint_every": 1000, "eval_every": 1000},
    "100m": {"width": 768, "layers": 14, "heads": 12, "kv_heads": 4, "mlp": 2432, "steps": 20000, "context": 4096,
             "batch_rows": 64, "lr": 1.5e-3, "warmup_steps": 500, "checkpoint_every": 1000, "eval_every": 1000},
    "500m": {"width": 1536, "layers": 18, "heads": 12, "kv_heads": 4, "head_dim": 128, "mlp": 4608, "steps": 50000,
             "context": 4096, "batch_rows": 512, "micro_rows": 8, "lr": 1.2e-3, "warmup_steps": 500,
             "checkpoint_every": 1000, "eval_every": 1000},
    # of the neural codec (`python -m trainer neural`)
    "lm-1m": {"width": 128, "layers": 5, "heads": 2, "kv_heads": 2, "mlp": 384, "steps": 4000, "batch_rows": 8,
              "optimizer": "muon", "schedule": "wsd", "decay": 0.4, "lr_floor": 0.02, "eval_every": 0},
    "lm-3m": {"width": 256, "layers": 4, "heads": 4, "kv_heads": 4, "mlp": 640, "steps": 1800, "batch_rows": 8,
              "optimizer": "muon", "schedule": "wsd", "decay": 0.4, "lr_floor": 0.02, "eval_every": 0},
    "lm-40m": {"width": 512, "layers": 12, "heads": 8, "kv_heads": 8, "mlp": 1408, "steps": 20000, "context": 2048,
               "batch_rows": 32, "lr": 2e-3, "warmup_steps": 300, "checkpoint_every": 1000, "eval_every": 1000},
}  # fmt: skip
