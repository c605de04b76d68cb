"""A course under Lightning, for retrainings: it goes around, on whatever device there is, and does not step. Alone uses Lightning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from models.course import Lanes, Teacher
from models.past import Chunk


class Module(pl.LightningModule):  # type: ignore[misc]
    """A teacher. Its network is no module of this one: the weights lie in the descent's own vector, which nobody may move."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._teacher = teacher

    def configure_optimizers(self) -> None:
        """The descent steps."""

    def training_step(self, chunk: Chunk) -> None:
        self._teacher.teach(chunk)

    def on_validation_epoch_start(self) -> None:
        self._teacher.look()

    def validation_step(self, chunk: Chunk) -> None:
        self._teacher.watch(chunk)

    def on_validation_epoch_end(self) -> None:
        self._teacher.looked()
        if self._teacher.progress.ended:
            self.trainer.should_stop = True


@dataclass(frozen=True)
class Again:
    """Chunks that can be asked for more than once: Lightning looks at the first one, and then begins anew."""

    made: Callable[[], Iterator[Chunk]]

    def __iter__(self) -> Iterator[Chunk]:
        return self.made()


class Data(pl.LightningDataModule):  # type: ignore[misc]
    """A history's lanes."""

    def __init__(self, lanes: Lanes) -> None:
        super().__init__()
        self._lanes = lanes

    def train_dataloader(self) -> Again:
        return Again(self._lanes.taught)

    def val_dataloader(self) -> Again:
        return Again(self._lanes.watched)


def fit(teacher: Teacher, lanes: Lanes) -> None:
    """What goes around in place of `course.walk`.

    Where Lightning has seen SIGTERM first it answers the signal itself, with exit code 0: so whether to go on is asked once more.
    """
    try:
        around(Module(teacher), Data(lanes), teacher)
    except SIGTERMException:
        lanes.goes_on()
        raise


def around(module: Module, data: Data, teacher: Teacher) -> None:
    """Pass after pass until the teacher has enough."""
    device = teacher.levels.device
    cuda = device.type == "cuda"
    trainer = pl.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=[device.index or 0] if cuda else 1,
        max_epochs=-1,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        inference_mode=False,  # carries outlive the pass
        logger=False,
        enable_checkpointing=False,  # what resumes lies in `Teacher.state`
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    products = torch.get_float32_matmul_precision()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")  # that nothing of its own steps, loads or saves here
        if cuda:
            torch.set_float32_matmul_precision("medium")  # products in bfloat16 or TF32, everything else in single precision
        try:
            if not teacher.progress.started:
                trainer.validate(module, datamodule=data, verbose=False)
            if not teacher.progress.ended:
                trainer.fit(module, datamodule=data)
        finally:
            torch.set_float32_matmul_precision(products)
