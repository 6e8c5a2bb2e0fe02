"""What is measured of each network: see `measures`."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.pipeline.measures.attacks import Strength
from secateur.pipeline.measures.bench import GROUPS, Bench, Settings
from secateur.pipeline.measures.images import choose


@dataclass(frozen=True)
class Evaluation:
    """How networks are measured. `measures`: see `secateur measure --only`. Accuracy is that of all test images; the
    first `attacked` of them (None: all) are attacked by PGD with so many steps and restarts; the robustness of the
    first `images` is to be certified, by complete verification within `timeout` seconds each."""

    images: int = 100
    timeout: float = 60.0
    attacked: int | None = None
    pgd_steps: int = 20
    pgd_restarts: int = 2
    measures: tuple[str, ...] = tuple(GROUPS)

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: a value that is none.
        """
        for name, value in (
            ("images", self.images),
            ("timeout", self.timeout),
            ("pgd_steps", self.pgd_steps),
            ("pgd_restarts", self.pgd_restarts),
        ):
            if not value > 0:
                raise InputError(f"{name} = {value}: expected more than 0")
        self._settings()

    def _settings(self, device: str = "cpu") -> Settings:
        strength = Strength(self.pgd_steps, self.pgd_restarts)
        return Settings(self.measures, self.timeout, self.attacked, strength, device=device)

    def bench(self, test: Dataset, epsilon: float, device: str) -> Bench:
        """The bench on which all networks of a recipe are measured."""
        return Bench(choose(test, epsilon, count=self.images), self._settings(device))

    @property
    def steps(self) -> int:
        """How often `Bench.measure` calls its `step` (where there are as many images)."""
        by_image = {"bounds", "complete"} & set(self.measures)
        return len(set(self.measures) - by_image - {"alpha-crown"}) + len(by_image) * self.images
