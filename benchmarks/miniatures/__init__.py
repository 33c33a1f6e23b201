"""Trains the miniature models that the package ships, from nothing: of handwritten digits, and of animals.

    python -m benchmarks.miniatures {sd,sd3,flux,classifier} [options]

``train_sd``, ``train_sd3``, ``train_flux``  autoencoder, text encoders and denoiser of each
``train_classifier``  the reader of digits, on real ones only
``model_sd``, ``model_sd3``, ``model_flux``  each pipeline's architecture, with fresh weights
``text_encoders``, ``tokenizer``  CLIP and T5 with a vocabulary of a few hundred tokens
``augment``  digits as other hands would have written them
``animals``  the one that draws animals, a room of its own
``layout``   writes a pipeline's folder as diffusers reads it

What is trained here is loaded, sampled and checked by :mod:`pcpo_overlay.tools.miniature`.
"""
