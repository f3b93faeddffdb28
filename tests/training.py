"""What trainings in tests share."""

import functools

import lightning as L


def cpu_trainer(epochs, **options):
    """Makes a Trainer on the processor that says nothing; ``options`` are Lightning's."""
    return functools.partial(
        L.Trainer, max_epochs=epochs, accelerator="cpu", enable_model_summary=False, log_every_n_steps=1, **options
    )
