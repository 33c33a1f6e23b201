"""Trains the miniature that draws 45 animals, from icons of eight sets that npm fetches.

    python -m benchmarks.miniatures.animals all --folder DIR

``packages``     the sets: package, version, sha256
``icons``        which icons show which animal, rendered
``drawings``     icons moved about before backgrounds
``model``        the architecture, with fresh weights, and its folder on disk
``resumable``    a training that may be stopped and goes on where it was
``autoencoder``, ``denoiser``, ``reader``  what is trained, in this order; the reader is the classifier
``nearest``      how near a picture is to an icon that was trained on

Everything lies in DIR: packages, icons, checkpoints, the pipeline. Nothing of the icons is part of the repository.
"""
